"""The cells of a sweep: every combination of the values of its axes, in a fixed order."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.parameters import by_name
from rgrad.problems import Point, named, names_to_differentiate, point_of
from rgrad.protocols import Params, Problem

N, DIMENSION = "n", "dimension"  # the axes that are not parameters: they determine shapes


class Shape(NamedTuple):
    """What the cells of one compiled program have in common: n, and the dimension (0 if that is not an axis)."""

    dimension: int
    n: int


class Grid(NamedTuple):
    """A problem over the product of its axes. The axes are in alphabetical order, and the values of each are ascending.

    `axes` maps each varying parameter to an array of its values, of shape `(points, *shape)`. The cells of a shape are
    numbered with the last axis varying fastest.
    """

    by_shape: Mapping[Shape, tuple[Problem, Point]]
    """The problem and its parameters for each shape. Parameters that are axes have their default values here."""
    axes: Mapping[str, np.ndarray]
    wrt: tuple[str, ...]

    @property
    def cells(self) -> int:
        """The number of cells of each shape."""
        return math.prod(len(values) for values in self.axes.values())

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(self.by_shape)

    def coordinates(self, first: int, count: int) -> dict[str, np.ndarray]:
        """The values of the axes in `count` cells from `first` on. Past the end, the last cell is repeated."""
        numbers = np.minimum(np.arange(first, first + count), self.cells - 1)
        if not self.axes:  # only n or the dimension varies, so each shape has one cell
            return {}
        places = np.unravel_index(numbers, [len(values) for values in self.axes.values()])
        return {name: values[at] for (name, values), at in zip(self.axes.items(), places, strict=True)}

    def points(self, shape: Shape, first: int, count: int) -> dict[str, np.ndarray]:
        """The parameters that vary, each of shape `(count, *shape of the parameter)`. Numbers are broadcast to it."""
        base = self.by_shape[shape][1]
        return {name: _filled(values, base[name]) for name, values in self.coordinates(first, count).items()}

    def words(self, shape: Shape, first: int, count: int) -> np.ndarray:
        """Two words for the key of each cell, shape `(count, 2)`, computed only from the cell's own coordinates.

        The coordinates are n, the dimension and all parameters, by name. The order of the axes, the other cells, and
        whether a parameter is an axis make no difference.
        """
        begun = f"{shape.dimension} {shape.n}".encode()
        fixed = {name: _bytes(np.asarray(value)) for name, value in self.by_shape[shape][1].items()}
        moving = {name: [_bytes(value) for value in values] for name, values in self.coordinates(first, count).items()}
        rows = []
        for i in range(count):
            parts = (
                name.encode() + b"\0" + (moving[name][i] if name in moving else fixed[name]) for name in sorted(fixed)
            )
            digest = hashlib.blake2b(b"".join((begun, *parts)), digest_size=8).digest()
            rows.append(np.frombuffer(digest, "<u4"))
        return np.stack(rows).astype(np.uint32)


def grid_of(
    problem: Problem,
    axes: Mapping[str, Any],
    params: Params | None = None,
    wrt: Sequence[str] | None = None,
) -> Grid:
    """The grid for these axes.

    `n` is the number of samples, `dimension` is the argument of `problem.of_dimension`, and all others are parameters.

    Raises:
        ValueError: an axis that is not a parameter of the problem, is empty, contains a value twice (to the precision
            of its floats), contains a value that is not finite, or has values of another shape than the parameter.
    """
    for name, values in axes.items():
        if not hasattr(values, "__len__") or len(values) == 0:
            raise ValueError(f"sweep: axis {name} is empty; list its values, e.g. {name}=1,2,3")
    numbers = _counts(N, axes.get(N, (10,)))
    dimensions = _counts(DIMENSION, axes[DIMENSION]) if DIMENSION in axes else [0]
    if DIMENSION in axes and not hasattr(problem, "of_dimension"):
        raise ValueError(
            f"sweep: axis {DIMENSION}: this problem has no of_dimension; add `def of_dimension(d)`, which returns the problem "
            "in d dimensions, or remove the axis"
        )
    by_shape: dict[Shape, tuple[Problem, Point]] = {}
    for d in dimensions:
        of = named(problem.of_dimension(d) if d else problem, "sweep")  # type: ignore[attr-defined]
        by_shape |= {Shape(d, n): (of, point_of(of, params, "sweep")) for n in numbers}
    of, base = by_shape[Shape(dimensions[0], numbers[0])]
    for name in set(axes) & set(by_name(params, base)):
        raise ValueError(f"sweep: {name} is both an axis and a fixed parameter; remove one of them")
    for name in (N, DIMENSION):
        if name in axes and name in base:
            raise ValueError(
                f"sweep: {name} cannot be an axis of this problem, which has a parameter of that name; rename the parameter"
            )
    found = {name: _values(name, axes[name], base) for name in sorted(set(axes) - {N, DIMENSION})}
    return Grid(by_shape, found, names_to_differentiate(of, base, wrt, "sweep"))


def _values(name: str, values: Sequence[Any], base: Point) -> np.ndarray:
    if name not in base:
        known = ", ".join([*base, N, DIMENSION])
        raise ValueError(f"sweep: axis {name}: this problem has no such parameter; choose from {known}")
    default = np.asarray(base[name])
    try:
        given = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"sweep: axis {name}: all values must be numbers or arrays of one shape") from None
    if given.ndim > 1 and given.shape[1:] != default.shape:
        raise ValueError(
            f"sweep: axis {name} has values of shape {given.shape[1:]}, but the parameter has shape {default.shape}; use "
            "arrays of that shape, or numbers, which fill it"
        )
    largest = (jnp.iinfo if np.issubdtype(default.dtype, np.integer) else jnp.finfo)(default.dtype).max
    if not np.all(np.abs(given) <= largest):
        raise ValueError(f"sweep: axis {name}: all values must be finite, also as {default.dtype}")
    found = given.astype(default.dtype) + np.zeros((), default.dtype)  # -0.0 is 0.0
    if np.issubdtype(default.dtype, np.integer) and np.any(found != given):
        raise ValueError(f"sweep: axis {name}: the parameter is an integer, so its values must be integers")
    distinct, counts = np.unique(found, axis=0, return_counts=True)
    if len(distinct) < len(found):
        twice = distinct[counts > 1][0].tolist()
        raise ValueError(
            f"sweep: duplicate cells: axis {name} has {twice} more than once (in {8 * default.dtype.itemsize}-bit floats); "
            "list each value once"
        )
    return distinct


def _counts(name: str, values: Sequence[Any]) -> list[int]:
    for value in values:
        if isinstance(value, bool) or not float(value).is_integer() or not 1 <= value < 2**31:
            raise ValueError(f"sweep: axis {name}: all values must be whole numbers of at least 1, got {value}")
    counts = [int(value) for value in values]
    if len(set(counts)) < len(counts):
        raise ValueError(f"sweep: duplicate cells: axis {name} has a value more than once; list each value once")
    return sorted(counts)


def _filled(values: np.ndarray, default: Array) -> np.ndarray:
    """`values`, of shape `(count,)` or `(count, *shape)`, broadcast to `(count, *shape)`."""
    shape = jnp.shape(default)
    missing = len(shape) + 1 - values.ndim
    return np.broadcast_to(values.reshape(values.shape + (1,) * missing), (len(values), *shape))


def _bytes(value: np.ndarray) -> bytes:
    """The bytes of a number or an array. An array filled with one number has the bytes of that number."""
    flat = np.ravel(value).astype(np.float64)
    return (flat[:1] if flat.size > 1 and np.all(flat == flat[0]) else flat).tobytes()


def each(total: int, step: int) -> Iterator[tuple[int, int]]:
    """Yields `(0, step), (step, 2 step), ...` up to `total`."""
    for first in range(0, total, step):
        yield first, min(first + step, total)
