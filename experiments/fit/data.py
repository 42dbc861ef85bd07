"""One column of numbers: from the user, synthetic, or bundled."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.csv_file import read_csv, to_number
from experiments.common.errors import UsageError, nearest

BUNDLED = "mean radius"  # column of the breast-cancer data: 569 measurements, right-skewed


class Data(NamedTuple):
    """The observations and their source."""

    x: np.ndarray
    name: str

    @property
    def mean(self) -> float:
        """The maximum-likelihood mu of a normal."""
        return float(self.x.mean())

    @property
    def sigma(self) -> float:
        """The maximum-likelihood sigma of a normal: sigma^2 = mean(x^2) - mean(x)^2."""
        return float(self.x.std())


def load_data(
    path: str | None, column: str | None, synthetic: tuple[float, float, int] | None, standardise: bool, seed: int
) -> Data:
    """The column that the flags select. Default: a column of measurements bundled with scikit-learn.

    Raises:
        UsageError: the file or column does not exist, values are not finite numbers, or there are too few of them.
    """
    if path is not None and synthetic is not None:
        raise UsageError("--data and --synthetic: give only one of the two")
    if column is not None and path is None:
        raise UsageError("--column: --data is missing; give the file too")
    if path is not None:
        x, name = _from_file(path, column)
    elif synthetic is not None:
        mean, sigma, count = synthetic
        if sigma < 0 or count < 1:
            raise UsageError(
                f"--synthetic {mean} {sigma} {count}: expected MU SIGMA COUNT, with SIGMA >= 0 and COUNT >= 1"
            )
        x, name = np.random.default_rng(seed).normal(mean, sigma, count), f"{count} draws of N({mean:g}, {sigma:g}^2)"
    else:
        from sklearn.datasets import load_breast_cancer

        bundle = load_breast_cancer()
        x = bundle.data[:, list(bundle.feature_names).index(BUNDLED)]
        name = f"breast-cancer data, column {BUNDLED!r}"
    if x.size < 2:
        raise UsageError(f"{name}: {x.size} value{'' if x.size == 1 else 's'}; give at least two to have a spread")
    if bad := np.flatnonzero(~np.isfinite(x)).tolist():
        raise UsageError(f"{name}: nan or infinite in {_rows(bad)}; remove these rows")
    if np.ptp(x) == 0:
        raise UsageError(f"{name}: all {x.size} values are {x[0]:g}; there is no spread to fit")
    if standardise:
        x, name = (x - x.mean()) / x.std(), f"{name}, standardised"
    return Data(x, name)


def _from_file(path: str, column: str | None) -> tuple[np.ndarray, str]:
    names, rows = _read_npy(path) if path.endswith(".npy") else _with_names(*read_csv(path))
    if column is None and len(names) == 1:
        column = names[0]
    if column is None:
        raise UsageError(
            f"--data {path}: it has {len(names)} columns; choose one with --column (there are: {', '.join(names)})"
        )
    if column not in names:
        raise UsageError(f"--column {column}: {path} has no such column{nearest(column, names)}")
    at = names.index(column)
    values, bad = [], []
    for i, row in enumerate(rows):
        try:
            values.append(to_number(row[at]) if isinstance(row[at], str) else float(row[at]))
        except (ValueError, TypeError):
            bad.append(i)
    if bad:
        example = repr(rows[bad[0]][at])
        hint = "; write numbers with a decimal point" if re.fullmatch(r"'-?\d*,\d+'", example) else ""
        raise UsageError(
            f"--data {path}, column {column!r}: not a number in {_rows(bad)} (e.g. {example[:80]}); fix or remove them{hint}"
        )
    return np.asarray(values, float), f"{Path(path).name}, column {column!r}"


def _with_names(names: list[str] | None, rows: list[list[str]]) -> tuple[list[str], Any]:
    """Without a header, the columns are named by their numbers."""
    return ([str(i) for i in range(len(rows[0]))] if names is None else names), rows


def _read_npy(path: str) -> tuple[list[str], Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror or error}; give the path of a .csv or .npy file") from None
    except Exception as error:  # only the file can be wrong, and its header can make NumPy raise nearly anything
        raise UsageError(f"--data {path}: cannot read it: {error}; give a .csv or .npy file") from None
    if not isinstance(array, np.ndarray):
        raise UsageError(f"--data {path}: this is an .npz archive; give a .csv or .npy file")
    kinds = {array.dtype[name].kind for name in array.dtype.names} if array.dtype.names else {array.dtype.kind}
    if array.ndim not in ((1,) if array.dtype.names else (1, 2)) or array.size == 0 or not kinds <= set("iuf"):
        raise UsageError(
            f"--data {path}: expected real numbers in an array with one or two axes, got {array.dtype} of shape {array.shape}"
        )
    if array.dtype.names:
        return list(array.dtype.names), array.tolist()
    table = array.reshape(len(array), -1)
    return [str(i) for i in range(table.shape[1])], table.tolist()


def _rows(places: list[int]) -> str:
    """`row 3`, `rows 3, 5, 8 and 12 more`: data rows count from 1, without the header."""
    first = ", ".join(str(i + 1) for i in places[:5])
    more = f" and {len(places) - 5:,} more" if len(places) > 5 else ""
    return f"row{'s' if len(places) > 1 else ''} {first}{more}"
