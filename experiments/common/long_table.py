"""Rows of a table.csv, chosen while it is read: only what is asked for is held."""

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
    """The values of each column that is not measured, of the chosen rows, in ascending order."""


def select(table: Path, where: Mapping[str, Any], keep: bool = True) -> Chosen:
    """The rows of `table` that have these values; without `keep` only what there is in its columns.

    Raises:
        UsageError: there is no such file or column.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, dict[Any, None]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            for name in where:
                if name not in columns:
                    raise UsageError(f"--where {name}: {table} has no such column{nearest(name, columns)}")
            for texts in reader:
                row = {name: value_of(text) for name, text in texts.items()}
                if all(same(row[name], value) for name, value in where.items()):
                    if keep:
                        rows.append(row)
                    for name in row.keys() - MEASURED:
                        seen.setdefault(name, {})[row[name]] = None
    except FileNotFoundError:
        raise UsageError(
            f"{table.parent}: there is no {table.name} in it; give the folder of the results of a run"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: it cannot be read ({error}); give the folder of the results of a run") from None
    ascending = lambda found: sorted(found, key=lambda v: (isinstance(v, str), v if v is not None else -math.inf))
    return Chosen(rows, columns, {name: ascending(found) for name, found in seen.items()})


def value_of(text: str) -> Any:
    """A number where it is one; None for an empty place, which is nan."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def same(a: Any, b: Any) -> bool:
    """Equal, numbers to six digits: what a user writes of 0.1 in 32 bits."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)
    return bool(a == b)
