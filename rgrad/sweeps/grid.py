"""The cells of a sweep: every combination of the values of its axes, in one order whatever the order they were given in."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.problems import Point, names_to_differentiate, point_of
from rgrad.protocols import Problem

N, DIMENSION = "n", "dimension"  # the axes that are no parameters: both are shapes


class Shape(NamedTuple):
    """What the cells of one compiled program have in common: N, and the dimension where that is an axis (else 0)."""

    dimension: int
    n: int


class Grid(NamedTuple):
    """A problem over the product of axes. Axes are in alphabetical order, and the values of each ascend.

    `axes` are the parameters that vary, each to an array of its values, shape `(points, *shape)`. The cells of a shape are
    numbered with the last axis moving fastest.
    """

    by_shape: Mapping[Shape, tuple[Problem, Point]]
    """Of each shape the problem and its parameters, those of the axes as the problem has them."""
    axes: Mapping[str, np.ndarray]
    wrt: tuple[str, ...]

    @property
    def cells(self) -> int:
        """How many cells each shape has."""
        return math.prod(len(values) for values in self.axes.values())

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(self.by_shape)

    def coordinates(self, first: int, count: int) -> dict[str, np.ndarray]:
        """The values of the axes in the cells `first`, ..., `first + count - 1`; beyond the last cell, those of the last."""
        numbers = np.minimum(np.arange(first, first + count), self.cells - 1)
        places = np.unravel_index(numbers, [len(values) for values in self.axes.values()])
        return {name: values[at] for (name, values), at in zip(self.axes.items(), places, strict=True)}

    def points(self, shape: Shape, first: int, count: int) -> dict[str, np.ndarray]:
        """The parameters that vary, each of shape `(count, *its shape)`: a number fills an array."""
        base = self.by_shape[shape][1]
        return {name: _filled(values, base[name]) for name, values in self.coordinates(first, count).items()}

    def words(self, shape: Shape, first: int, count: int) -> np.ndarray:
        """Two words for the key of each cell, shape `(count, 2)`, from its own coordinates alone.

        Those are N, the dimension and all parameters, by name: neither the order of the axes nor the other cells matter,
        nor whether a parameter is an axis.
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
    params: Mapping[str, Any] | None = None,
    wrt: Sequence[str] | None = None,
) -> Grid:
    """The grid of those axes: `n` is the number of samples, `dimension` that of `problem.of_dimension`, all others are parameters.

    Raises:
        ValueError: an axis that the problem does not have, that is empty, or that has a value twice (to the precision of
            the floats), a value that is not finite, or is of another shape than the parameter.
    """
    params = dict(params or {})
    for name, values in axes.items():
        if not hasattr(values, "__len__") or len(values) == 0:
            raise ValueError(f"sweep: axis {name} is empty; give its values, as {name}=1,2,3")
        if name in params:
            raise ValueError(f"sweep: {name} is an axis and a fixed parameter; leave one of them out")
    numbers = _counts(N, axes.get(N, (10,)))
    dimensions = _counts(DIMENSION, axes[DIMENSION]) if DIMENSION in axes else [0]
    if DIMENSION in axes and not hasattr(problem, "of_dimension"):
        raise ValueError(
            f"sweep: axis {DIMENSION}: this problem has no of_dimension; add `def of_dimension(d)`, which returns the problem "
            "in d dimensions, or leave that axis out"
        )
    by_shape: dict[Shape, tuple[Problem, Point]] = {}
    for d in dimensions:
        of = problem.of_dimension(d) if d else problem  # type: ignore[attr-defined]
        by_shape |= {Shape(d, n): (of, point_of(of, params)) for n in numbers}
    of, base = by_shape[Shape(dimensions[0], numbers[0])]
    for name in (N, DIMENSION):
        if name in axes and name in base:
            raise ValueError(
                f"sweep: the problem's parameter {name} cannot be an axis, that word has a meaning; rename it"
            )
    found = {name: _values(name, axes[name], base) for name in sorted(set(axes) - {N, DIMENSION})}
    return Grid(by_shape, found, names_to_differentiate(of, base, wrt))


def _values(name: str, values: Sequence[Any], base: Point) -> np.ndarray:
    if name not in base:
        known = ", ".join([*base, N, DIMENSION])
        raise ValueError(f"sweep: axis {name}: this problem has no such parameter (there are: {known})")
    default = np.asarray(base[name])
    try:
        given = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"sweep: axis {name}: its values are not all numbers, or not all of one shape") from None
    if given.ndim > 1 and given.shape[1:] != default.shape:
        raise ValueError(
            f"sweep: axis {name} has values of shape {given.shape[1:]}, and the parameter has {default.shape}; give "
            "numbers, which fill it, or arrays of that shape"
        )
    if not np.all(np.isfinite(given)):
        raise ValueError(f"sweep: axis {name} has values that are not finite; give finite numbers")
    found = given.astype(default.dtype) + np.zeros((), default.dtype)  # -0.0 is 0.0
    if np.issubdtype(default.dtype, np.integer) and np.any(found != given):
        raise ValueError(f"sweep: axis {name}: the parameter is an integer, and so must be its values")
    distinct, counts = np.unique(found, axis=0, return_counts=True)
    if len(distinct) < len(found):
        twice = distinct[counts > 1][0].tolist()
        raise ValueError(
            f"sweep: duplicate cells: axis {name} has {twice} more than once (in {8 * default.dtype.itemsize}-bit floats); "
            "give each value once"
        )
    return distinct


def _counts(name: str, values: Sequence[Any]) -> list[int]:
    for value in values:
        if isinstance(value, bool) or not float(value).is_integer() or not 1 <= value < 2**31:
            raise ValueError(f"sweep: axis {name}: {value} is not a whole number of at least 1; give such numbers")
    counts = [int(value) for value in values]
    if len(set(counts)) < len(counts):
        raise ValueError(f"sweep: duplicate cells: axis {name} has a value more than once; give each value once")
    return sorted(counts)


def _filled(values: np.ndarray, default: Array) -> np.ndarray:
    """`values`, shape `(count,)` or `(count, *shape)`, as `(count, *shape)`."""
    shape = jnp.shape(default)
    missing = len(shape) + 1 - values.ndim
    return np.broadcast_to(values.reshape(values.shape + (1,) * missing), (len(values), *shape))


def _bytes(value: np.ndarray) -> bytes:
    """A number, or an array filled with one, has the bytes of the number: of an axis it is known as that."""
    flat = np.ravel(value).astype(np.float64)
    return (flat[:1] if flat.size > 1 and np.all(flat == flat[0]) else flat).tobytes()


def each(total: int, step: int) -> Iterator[tuple[int, int]]:
    """`(0, step), (step, 2 step), ...` up to `total`."""
    for first in range(0, total, step):
        yield first, min(first + step, total)
