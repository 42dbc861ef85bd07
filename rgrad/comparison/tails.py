"""`Tails`: the largest deviations of the calls so far, which show whether a variance may be infinite."""

from typing import Any

import numpy as np

from rgrad.comparison.verdicts import FEWEST, TOP, infinite_variance

FOLLOWED = 2**11  # the most coordinates that are followed one by one: up to 64 MB for each estimator


class Tails:
    """The largest deviations from the median of the first calls, for each coordinate.

    For more than `FOLLOWED` coordinates, they would take far more memory and time than the gradients. Then only the
    whole gradient is followed: the square root of how far its squared distance from the first mean is from the median
    of such distances. Its tail is that of the heaviest coordinate, and the coordinates with light tails add up to a
    distance that hardly varies. A suspicion then applies to all coordinates, because it is not known which one is heavy.
    """

    def __init__(self, size: int):
        self._size, self._by_coordinate = size, size <= FOLLOWED
        self._kept: list[np.ndarray[Any, Any]] = []  # the calls are the last axis
        self._middle: np.ndarray[Any, Any] | None = None
        self._suspected, self._tested_at = np.zeros(size, bool), 0

    def add(self, x: np.ndarray[Any, Any], squares: np.ndarray[Any, Any]) -> None:
        """Adds calls.

        Args:
            x: the gradients, shape `(calls, coordinates)`.
            squares: their squared distances from a fixed gradient, shape `(calls,)`.
        """
        x = np.asarray(x, np.float64) if self._by_coordinate else squares[:, None]
        if self._middle is None:
            self._middle = np.median(x, 0)
        away = np.abs(x - self._middle)
        self._kept.append(np.ascontiguousarray((away if self._by_coordinate else away**0.5).T))
        if sum(part.shape[1] for part in self._kept) > 2 * (TOP + 1):
            self._shorten()

    def heavy(self, count: int, *, fresh: bool = True) -> np.ndarray[Any, Any]:
        """The coordinates whose variance is suspected to be infinite after `count` calls: shape `(coordinates,)`.

        Args:
            fresh: whether all calls must count. Otherwise the answer may lack the last few, because for many
                coordinates it takes as long as many calls.
        """
        if count >= FEWEST and (fresh or count >= self._tested_at + min(TOP, 2 * self._size)):
            self._shorten()
            suspected = infinite_variance(np.sort(self._kept[0], 1)[:, ::-1].T, count)
            self._suspected = suspected if self._by_coordinate else np.repeat(suspected, self._size)
            self._tested_at = count
        return self._suspected

    def _shorten(self) -> None:
        """Keeps the largest `TOP + 1` values of each coordinate, in any order."""
        x = np.concatenate(self._kept, 1)
        count = x.shape[1]
        self._kept = [x if count <= TOP + 1 else np.partition(x, count - TOP - 1)[:, -TOP - 1 :].copy()]
