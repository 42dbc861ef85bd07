"""The column of data: bundled, or from the user."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.csv_file import read_csv, to_number
from experiments.common.errors import UsageError, nearest

BUNDLED = "alcohol"


class Column(NamedTuple):
    """One column of numbers, standardised."""

    x: np.ndarray
    """Shape (rows,), mean 0 and standard deviation 1."""
    name: str


def load_column(path: str | None, column: str | None) -> Column:
    """The alcohol in the wines of scikit-learn, 178 rows, or a column of a .csv file.

    Raises:
        UsageError: the file or the column does not exist, or the column does not have two different finite numbers.
    """
    if path is None:
        if column is not None:
            raise UsageError(f"--column {column}: --data is missing; give the file too")
        from sklearn.datasets import load_wine

        bundle = load_wine()
        return _standardised(bundle.data[:, bundle.feature_names.index(BUNDLED)], "alcohol in wines")
    names, rows = read_csv(path)
    if names is None:
        raise UsageError(f"--data {path}: expected a line of names first; add it")
    if column is None or column not in names:
        found = "the column is not named" if column is None else f"{path} has no column {column!r}"
        raise UsageError(f"--column: {found}; give one{nearest(column or '', names)}")
    at = names.index(column)
    try:
        x = np.array([to_number(row[at]) for row in rows], float)
    except ValueError as error:
        raise UsageError(f"--column {column}: {error}; give a column of numbers") from None
    if not np.all(np.isfinite(x)):
        i = int(np.argmin(np.isfinite(x)))
        raise UsageError(f"--column {column}: row {i + 1} is {x[i]}; remove the row")
    if len(set(x.tolist())) < 2:
        raise UsageError(f"--column {column}: it has fewer than two different numbers; give another column")
    return _standardised(x, f"{Path(path).name}, {column}")


def _standardised(x: np.ndarray, name: str) -> Column:
    return Column((x - x.mean()) / x.std(), name)
