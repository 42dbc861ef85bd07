"""A table for logistic regression: bundled or from the user, with its split and standardised columns."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.common.csv_file import read_csv, to_number
from experiments.common.errors import UsageError, nearest

INTERCEPT = "intercept"


class Table(NamedTuple):
    """Columns of measurements, and a target with two values."""

    x: np.ndarray
    """Shape (rows, columns)."""
    y: np.ndarray
    """0 or 1, shape (rows,)."""
    names: list[str]
    """Names of the columns."""
    source: str


class Split(NamedTuple):
    """Rows to fit and held-out rows. The first column is 1, the others are standardised by the rows to fit."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


def load_table(path: str | None, column: str | None) -> Table:
    """The breast-cancer data of scikit-learn, 569 x 30, or a .csv file with the target in `column`.

    Raises:
        UsageError: the file or column does not exist, the target does not have two values, or a column is not numeric.
    """
    if path is None:
        if column is not None:
            raise UsageError(f"--column {column}: --data is missing; give the file too")
        from sklearn.datasets import load_breast_cancer

        bundle = load_breast_cancer()
        return Table(bundle.data, bundle.target, list(bundle.feature_names), "breast-cancer data")
    names, cells = _read(path)
    if column is None or column not in names:
        found = "the target is not named" if column is None else f"{path} has no column {column!r}"
        raise UsageError(f"--column: {found}; give one{nearest(column or '', names)}")
    at = names.index(column)
    target = [row[at] for row in cells]
    values = sorted(set(target))
    if len(values) != 2:
        raise UsageError(
            f"--column {column}: it has {len(values)} different values; give a target with two, e.g. 0 and 1"
        )
    others = [i for i in range(len(names)) if i != at]
    try:
        x = np.array([[to_number(row[i]) for i in others] for row in cells]).reshape(len(cells), -1)
    except ValueError as error:
        raise UsageError(f"--data {path}: {error}; every column except the target must contain numbers") from None
    if not np.all(np.isfinite(x)):
        row, i = np.argwhere(~np.isfinite(x))[0]
        raise UsageError(f"--data {path}: row {row + 1}, column {names[others[i]]!r} is {x[row, i]}; remove the row")
    return Table(
        x, np.array([value == values[1] for value in target], int), [names[i] for i in others], Path(path).name
    )


def _read(path: str) -> tuple[list[str], list[list[str]]]:
    names, rows = read_csv(path)
    if names is None or len(names) < 2 or len(rows) < 2:
        raise UsageError(
            f"--data {path}: expected a line of names, at least two columns and two rows; give another .csv file"
        )
    return names, rows


def split(table: Table, share: float, seed: int) -> Split:
    """Holds out a random `share` of the rows, which depends only on the seed. None for 0.

    Raises:
        UsageError: the share is too small or too large for the number of rows, or a column has no spread.
    """
    held = round(share * len(table.y))
    if (share > 0 and held == 0) or held > len(table.y) - 2:
        raise UsageError(
            f"--held-out {share:g}: that is {held} of {len(table.y)} rows; hold out at least one and leave at least two, or give 0"
        )
    order = np.random.default_rng(seed).permutation(len(table.y))
    out, keep = np.sort(order[:held]), np.sort(order[held:])
    mean, spread = table.x[keep].mean(0), table.x[keep].std(0)
    if np.any(spread == 0):
        raise UsageError(
            f"--data: column {table.names[int(np.argmin(spread))]!r} has one value in all {len(keep)} rows to fit, and "
            "cannot be standardised; remove it"
        )
    standard = np.insert((table.x - mean) / spread, 0, 1.0, axis=1)
    return Split(standard[keep], table.y[keep], standard[out], table.y[out])
