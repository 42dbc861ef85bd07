"""`Tails`: the largest deviations of the calls so far, which tell whether a variance may be infinite."""

from typing import Any

import numpy as np

from rgrad.comparison.verdicts import TOP, infinite_variance

FOLLOWED = 2**12  # the most coordinates that are followed one by one: 64 MB for each estimator


class Tails:
    """The largest deviations from the median of the first calls, for each coordinate.

    For more than `FOLLOWED` coordinates, they would take far more memory and time than the gradients. Then only the
    whole gradient is followed: the square root of how far its squared distance from the first mean is from the median
    of such distances. Its tail is that of the heaviest coordinate, and the coordinates with light tails add up to a
    distance that hardly varies. A suspicion then holds for all coordinates, because it is not known which one it is.
    """

    def __init__(self, size: int):
        self.size, self.by_coordinate = size, size <= FOLLOWED
        self._kept: list[np.ndarray[Any, Any]] = []
        self._middle: np.ndarray[Any, Any] | None = None

    def add(self, x: np.ndarray[Any, Any], squares: np.ndarray[Any, Any]) -> None:
        """Adds calls.

        Args:
            x: the gradients, shape `(calls, coordinates)`.
            squares: their squared distances from a fixed gradient, shape `(calls,)`.
        """
        x = np.asarray(x, np.float64) if self.by_coordinate else squares[:, None]
        if self._middle is None:
            self._middle = np.median(x, 0)
        away = np.abs(x - self._middle)
        self._kept.append(away if self.by_coordinate else away**0.5)
        if sum(map(len, self._kept)) > 2 * (TOP + 1):
            self._kept = [_largest(np.concatenate(self._kept))]

    def heavy(self, count: int) -> np.ndarray[Any, Any]:
        """The coordinates whose variance is suspected to be infinite after `count` calls: shape `(coordinates,)`."""
        self._kept = [_largest(np.concatenate(self._kept))]
        suspected = infinite_variance(np.sort(self._kept[0], 0)[::-1], count)
        return suspected if self.by_coordinate else np.repeat(suspected, self.size)


def _largest(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest `TOP + 1` values of each column, in any order."""
    return x if len(x) <= TOP + 1 else np.partition(x, len(x) - TOP - 1, 0)[-TOP - 1 :]
