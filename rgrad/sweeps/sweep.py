"""`sweep`: the moments of gradient estimates over a grid of settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from rgrad.backend.compiling import check_compiles
from rgrad.backend.keys import check_counted_key
from rgrad.estimators.table import Estimators, estimators_of
from rgrad.measurement.moments import Moments
from rgrad.printing import SHOWN, Printed, as_table, more
from rgrad.problems import labels_of
from rgrad.protocols import Params, Problem
from rgrad.sweeps.cells import Cells, devices_for, extent_for, merged
from rgrad.sweeps.grid import DIMENSION, Grid, N, Shape, each, grid_of

Row = dict[str, Any]
DEFAULT = ("reparameterized", "score_function", "score_function+leave_one_out")


class _SweepFields(NamedTuple):
    grid: Grid
    by_shape: Mapping[Shape, Moments]


class Sweep(Printed, _SweepFields):
    """The result of `sweep`. `print` shows its first rows; `.rows` has all of them, and `.moments()` the arrays.

    Example:
        >>> class problem:  # E[x^2], x ~ N(loc, 1)
        ...     params = {"loc": 2.0}
        ...     distribution = lambda params: dist.Normal(params["loc"], 1.0)
        ...     objective = lambda params, x: x**2
        >>> swept = rgrad.sweep(problem, {"loc": [0.0, 1.0, 2.0]}, "reparameterized", key=key, replicates=1000)
        >>> print(len(swept.rows), swept.rows[1]["loc"])
        3 1.0
    """

    __slots__ = ()

    def __str__(self) -> str:
        few = min(self.grid.cells, SHOWN)
        first = lambda m: Moments(m.count, *(jax.tree.map(lambda x: x[:few], tree) for tree in m[1:]))
        rows = [r for shape, m in self.by_shape.items() for r in rows_of(self.grid, shape, 0, first(m), few)]
        count = sum(np.size(x) for m in self.by_shape.values() for x in jax.tree.leaves(m.mean))
        shown = lambda x: f"{x:.4g}" if isinstance(x, float) else str(x)
        names = [name for name in rows[0] if name not in ("replicates", "nonfinite")]
        table = as_table(names, [[shown(row[name]) for name in names] for row in rows[:SHOWN]], left=0)
        return "\n".join([table, *more(count), f"per call, from {rows[0]['replicates']:,} calls in each cell"])

    @property
    def axes(self) -> dict[str, np.ndarray]:
        """The parameters that vary, in alphabetical order, each with its values in ascending order."""
        return dict(self.grid.axes)

    def moments(self, n: int | None = None, dimension: int | None = None) -> Moments:
        """The moments for one shape of the grid, by estimator and then by parameter.

        Each array has the shape `(*points of axes, *shape of the parameter)`.

        Raises:
            ValueError: the arguments select no shape, or more than one.
        """
        chosen = [s for s in self.by_shape if n in (None, s.n) and dimension in (None, s.dimension)]
        if len(chosen) != 1:
            there = "; ".join(f"n={s.n}" + f", dimension={s.dimension}" * bool(s.dimension) for s in self.by_shape)
            raise ValueError(f"Sweep.moments: the arguments select {len(chosen)} shapes; choose one of: {there}")
        of = self.by_shape[chosen[0]]
        points = tuple(len(values) for values in self.grid.axes.values())
        front = lambda a: a.reshape(points + a.shape[1:])
        return Moments(of.count, *(jax.tree.map(front, tree) for tree in of[1:]))

    @property
    def rows(self) -> list[Row]:
        """One row for each cell, estimator and coordinate of a parameter. Also as `sweep.to_pandas()`."""
        return [
            row
            for shape, moments in self.by_shape.items()
            for row in rows_of(self.grid, shape, 0, moments, self.grid.cells)
        ]


def sweep(
    problem: Problem,
    axes: Mapping[str, Any],
    estimators: Estimators | None = None,
    params: Params | None = None,
    wrt: Sequence[str] | None = None,
    *,
    key: Array,
    replicates: int = 10_000,
    common_noise: bool = False,
    devices: Sequence[Any] | None = None,
    chunk: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Sweep:
    """The moments of gradient estimates in every cell of a grid, in one compiled program for each shape.

        grid = rgrad.sweep(problem, {"loc": jnp.linspace(-3, 3, 61), "scale": [0.5, 1.0], "n": [10, 100]}, key=key)
        grid.moments(n=10).variance["score_function"]["loc"]  # shape (61, 2)
        grid.to_pandas()

    The cells are mapped into one program, sharded over the devices, and streamed: apart from the result, memory does
    not grow with their number. The draws of a cell depend only on the key and on the cell's own coordinates (all
    parameters, n and the dimension). They are therefore the same in every sweep that contains the cell. Within a cell,
    all estimators share their draws.

    Args:
        problem: has `distribution(params)`, `objective(params, x)` and `params` (`rgrad.Problem`). If `dimension` is an
            axis, it also has `of_dimension(d)`, which returns the problem in d dimensions.
        axes: names to values, as lists or arrays. `n` is the number of samples of one gradient estimate (10 if absent),
            `dimension` is that of the problem, and all others are parameters. If the parameter is an array, a number is
            broadcast to its shape.
        estimators: by name. By default `reparameterized`, `score_function` and `score_function+leave_one_out`.
        params: fixed parameters that differ from the problem's own: by name, or in the structure of the problem's own.
        wrt: the names of the parameters to differentiate. By default the problem's own `wrt`, or every parameter.
        key: one PRNG key.
        replicates: the number of independent estimates in each cell.
        common_noise: True: all cells of a shape share one stream of noise, which is drawn once for many cells. This is
            faster, and differences between cells are less noisy, but the errors of neighbouring cells are correlated.
        devices: the devices to shard the cells over. None: all devices of this process.
        chunk: the number of cells in one call of the program. None: chosen automatically.
        progress: called with the number of cells finished since the last call.

    Raises:
        TypeError: `key` is not a PRNG key.
        ValueError: what `rgrad.sweeps.grid.grid_of` raises for the axes; replicates or chunk < 1; what an estimator
            raises; several keys, or a key of the kind rbg, whose draws depend on the batch; `jax.disable_jit`.
        MemoryError: not even one estimate fits into memory. (If several do not fit, half as many are made at once.)

    Example:
        >>> class problem:  # E[x^2], x ~ N(loc, 1)
        ...     params = {"loc": 2.0}
        ...     distribution = lambda params: dist.Normal(params["loc"], 1.0)
        ...     objective = lambda params, x: x**2
        >>> swept = rgrad.sweep(problem, {"loc": [0.0, 1.0, 2.0]}, "reparameterized", key=key, replicates=1000)
        >>> print(swept.moments().variance["reparameterized"]["loc"].round(1))  # 4/10 in each cell
        [0.4 0.4 0.4]
    """
    if isinstance(replicates, bool) or not isinstance(replicates, int | np.integer) or replicates < 1:
        raise ValueError(f"sweep: replicates must be an int of at least 1, got {replicates!r}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"sweep: chunk must be at least 1 cell, got {chunk}")
    check_compiles("sweep")
    check_counted_key(key, "sweep")
    grid = grid_of(problem, axes, params, wrt)
    chosen = estimators_of(DEFAULT if estimators is None else estimators, "sweep")
    found: dict[Shape, list[Moments]] = {}
    use = devices_for(None, devices)
    for shape in grid.shapes:
        extent = extent_for(grid, shape, chosen, replicates, use, common_noise, chunk)
        cells = Cells(grid, shape, chosen, extent, use, common_noise)
        for first, stop in each(grid.cells, cells.extent.cells):
            blocks = each(replicates, cells.extent.replicates)
            moments = merged([cells.measure(key, first, a, b) for a, b in blocks])
            found.setdefault(shape, []).append(take(moments, stop - first))
            if progress is not None:
                progress(stop - first)
    return Sweep(grid, {shape: _joined(parts) for shape, parts in found.items()})


def take(moments: Moments, count: int) -> Moments:
    """The moments of the first `count` cells."""
    return Moments(moments.count, *(jax.tree.map(lambda a: a[:count], tree) for tree in moments[1:]))


def _joined(parts: Sequence[Moments]) -> Moments:
    trees = [list(part[1:]) for part in parts]
    return Moments(parts[0].count, *jax.tree.map(lambda *arrays: np.concatenate(arrays), *trees))


def rows_of(grid: Grid, shape: Shape, first: int, moments: Moments, count: int) -> Iterator[Row]:
    """The rows of the cells `first`, ..., `first + count - 1`, from their moments."""
    # The fewest digits that identify the float: 0.1 instead of 0.10000000149.
    coordinates = {name: v.astype(str).astype(float).tolist() for name, v in grid.coordinates(first, count).items()}
    low, high = moments.variance_interval()
    columns = {
        "mean": moments.mean,
        "standard_error": moments.standard_error,
        "variance": moments.variance,
        "variance_low": low,
        "variance_high": high,
        "nonfinite": moments.nonfinite,
    }
    flat: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    for what, tree in columns.items():
        for estimator, of in tree.items():
            for name, array in of.items():
                flat.setdefault((estimator, name), {})[what] = np.reshape(array, (len(array), -1)).tolist()
    where = {**({DIMENSION: shape.dimension} if shape.dimension else {}), N: shape.n}
    labels = {name: labels_of(name, array[0]) for of in moments.mean.values() for name, array in of.items()}
    for cell in range(count):
        at = where | {name: values[cell] for name, values in coordinates.items()}
        for estimator, name in sorted(flat):
            numbers = flat[estimator, name]
            for i, label in enumerate(labels[name]):
                found = {what: numbers[what][cell][i] for what in columns}
                yield at | {"estimator": estimator, "parameter": label, "replicates": int(moments.count)} | found
