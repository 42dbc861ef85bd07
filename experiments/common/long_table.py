"""Selects rows of a table.csv while reading it. Only the selected rows are kept in memory."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common.errors import UsageError, nearest

TABLE = "table.csv"
MEASURED = {"mean", "standard_error", "variance", "variance_low", "variance_high", "nonfinite", "replicates", "exact_mean",
            "exact_variance"}  # fmt: skip


class Chosen(NamedTuple):
    rows: list[dict[str, Any]]
    columns: list[str]
    distinct: dict[str, list[Any]]
    """The values in the selected rows of each column that is not measured, in ascending order."""


def select(table: Path, where: Mapping[str, Any], keep: bool = True) -> Chosen:
    """The rows of `table` with these values. Without `keep`: no rows, only the values that occur in each column.

    Raises:
        UsageError: the file or a column does not exist.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, dict[Any, None]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            if len(set(columns)) < len(columns) or not columns:
                fault = "two columns have the same name" if columns else "it is empty"
                raise UsageError(f"{table}: {fault}; give the folder with the results of a run")
            for name in where:
                if name not in columns:
                    raise UsageError(f"--where {name}: {table} has no such column{nearest(name, columns)}")
            for texts in reader:
                if None in texts or None in texts.values():
                    raise UsageError(f"{table}: line {reader.line_num} does not have {len(columns)} cells; fix it")
                row = {name: value_of(text) for name, text in texts.items()}
                if all(same(row[name], value) for name, value in where.items()):
                    if keep:
                        rows.append(row)
                    for name in row.keys() - MEASURED:
                        seen.setdefault(name, {})[row[name]] = None
    except FileNotFoundError:
        raise UsageError(f"{table.parent}: it has no {table.name}; give the folder with the results of a run") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{table}: cannot read it ({what}); give the folder with the results of a run") from None
    ascending = lambda found: sorted(found, key=lambda v: (isinstance(v, str), v if v is not None else -math.inf))
    return Chosen(rows, columns, {name: ascending(found) for name, found in seen.items()})


def value_of(text: str) -> Any:
    """The text as a number if it is one. None for nan or infinity, which our tables write as an empty field."""
    try:
        value = float(text or "nan")
    except ValueError:
        return text
    return value if math.isfinite(value) else None


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, numbers to six digits: a user writes 0.1 for the 32-bit number closest to it."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
    return bool(a == b)
