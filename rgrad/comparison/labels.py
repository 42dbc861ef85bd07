"""The labels of the coordinates of several parameters, made on demand."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np


class Labels(Sequence[str]):
    """`loc` for a number, and `loc[0]`, `loc[1]`, ... for an array, as in `rgrad.problems.labels_of`.

    Args:
        parameters: arrays by name. They are in the order of their names, like the leaves of a dict in JAX.
    """

    def __init__(self, parameters: Mapping[str, Any]):
        self._shapes = {name: np.shape(parameters[name]) for name in sorted(parameters)}
        self._ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()], dtype=int)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        i = range(len(self))[at]
        which = int(np.searchsorted(self._ends, i, side="right"))
        name, shape = list(self._shapes.items())[which]
        before = int(self._ends[which - 1]) if which else 0
        return f"{name}[{','.join(map(str, np.unravel_index(i - before, shape)))}]" if shape else name

    def of(self, names: Any) -> np.ndarray[Any, Any]:
        """Which coordinates belong to the parameters `names`: booleans, shape `(coordinates,)`."""
        sizes = np.diff(self._ends, prepend=0)
        return np.repeat([name in names for name in self._shapes], sizes).astype(bool)
