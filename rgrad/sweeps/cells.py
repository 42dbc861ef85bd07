"""The compiled program of a sweep: many cells at once, sharded over devices, and as many as fit into memory."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from rgrad.backend.compiling import SHORT_SUMS, options, size_of
from rgrad.measurement.batches import MOST_WORK, MOST_WORK_ELSEWHERE, in_flight
from rgrad.measurement.moments import Moments, moments_of
from rgrad.measurement.streaming import power_sums, words
from rgrad.problems import gradient
from rgrad.protocols import Estimator
from rgrad.sweeps.grid import Grid, Shape

log = logging.getLogger("rgrad")
CALL = {"cpu": 2**26}  # the elements that one call of the program should compute: about half a second of work
CALL_ELSEWHERE = 2**34
SHARED_LANES = 8  # the fewest replicates made at once if cells share their noise


class Extent(NamedTuple):
    """How the cells of a shape are divided. A resumed run must use the same one: it affects the moments' last bits."""

    cells: int
    """Cells in one call, over all devices."""
    replicates: int
    """The most replicates in one call."""
    batch: int
    """Cells that each device works on at once."""
    lanes: int
    """Replicates of each cell that are made at once."""

    def halved(self) -> "Extent":
        """The division with half as much work in flight.

        Raises:
            MemoryError: it is already down to one replicate of one cell.
        """
        if self.batch > 1:
            return self._replace(batch=self.batch // 2)
        if self.lanes > 1:
            return self._replace(lanes=self.lanes // 2)
        raise MemoryError(
            "sweep: a single gradient estimate does not fit into memory; use a smaller n, or fewer estimators at once"
        )


def devices_for(count: int | None = None, devices: Sequence[Any] | None = None) -> list[Any]:
    """The first `count` devices of this process, or all of them if `count` is None.

    Raises:
        ValueError: there are fewer devices.
    """
    local = list(jax.local_devices() if devices is None else devices)
    if count is not None and not 1 <= count <= len(local):
        raise ValueError(f"sweep: the number of devices must be 1 to {len(local)}, got {count}")
    return local[:count]


def extent_for(
    grid: Grid,
    shape: Shape,
    estimators: Mapping[str, Estimator],
    replicates: int,
    devices: Sequence[Any],
    common: bool,
    chunk: int | None = None,
) -> Extent:
    """The division that keeps the devices busy and fits into their memory.

    On a CPU, moderate batches of cells are faster than one huge batch, because their intermediate results fit into the
    cache (`IN_FLIGHT`). Common noise is made once for all cells of a batch, so with common noise the batch is as large
    as possible.

    Args:
        chunk: the number of cells in one call. None: chosen automatically.
    """
    work, largest = _size_of_call(grid, shape, estimators)
    on_cpu = devices[0].platform == "cpu"
    flight, most_work = in_flight(devices[0]), MOST_WORK if on_cpu else MOST_WORK_ELSEWHERE
    most_cells, most_lanes = 2 ** (grid.cells - 1).bit_length(), min(2**16, 2 ** (replicates - 1).bit_length())
    shared = min(most_cells, _power_of_two(flight / (SHARED_LANES * largest))) if common else 1
    lanes = _power_of_two(min(most_lanes, flight / (largest * shared), most_work / (work * shared)))
    batch = min(most_cells, _power_of_two(flight / (lanes * largest)))
    call = CALL["cpu"] if on_cpu else CALL_ELSEWHERE
    at_once = batch * len(devices)
    # A whole number of batches in each call, with as few padding cells as possible.
    most = _power_of_two(call / (largest * replicates * at_once))
    needed = math.ceil(grid.cells / at_once)
    batches = math.ceil(needed / math.ceil(needed / most))
    block = max(lanes, _power_of_two(call / (largest * at_once)))
    if chunk is not None:
        return Extent(chunk, replicates if replicates <= block else block, min(batch, _power_of_two(chunk)), lanes)
    return Extent(batches * at_once, replicates if replicates <= block else block, batch, lanes)


class Cells:
    """The program for the cells of one shape. It is compiled once, for all cells and any number of replicates.

    Args:
        common: whether all cells share their noise (common random numbers). It is then made once for all cells of a
            batch.
    """

    def __init__(
        self,
        grid: Grid,
        shape: Shape,
        estimators: Mapping[str, Estimator],
        extent: Extent,
        devices: Sequence[Any],
        common: bool,
    ):
        self.grid, self.shape, self.extent, self.common = grid, shape, extent, common
        self._arguments = (grid, shape, estimators, common)
        self._devices = devices
        self._compile()

    def _compile(self) -> None:
        mesh = Mesh(np.asarray(self._devices), ("cells",))
        split, whole = PartitionSpec("cells"), PartitionSpec()
        program = partial(_many, *self._arguments, self.extent.batch, self.extent.lanes)
        _, largest = _size_of_call(self.grid, self.shape, self._arguments[2])
        self._run = jax.jit(
            jax.shard_map(
                program, mesh=mesh, in_specs=(split, split, whole, whole, whole), out_specs=split, check_vma=False
            ),
            compiler_options=options(short_sums=largest <= SHORT_SUMS),
        )

    def measure(self, key: Array, first: int, start: int, stop: int) -> Moments:
        """The moments of `extent.cells` cells from `first` on, over the replicates `start`, ..., `stop - 1`.

        Every array has a leading axis over the cells. Past the end, the last cell of the shape is repeated. If memory
        runs out, half as much work at once is tried, and `extent` is updated.

        Raises:
            MemoryError: not even one gradient estimate fits.
        """
        while True:
            try:
                at_once = self.extent.batch * len(self._devices)
                padded = math.ceil(self.extent.cells / at_once) * at_once
                points = self.grid.points(self.shape, first, padded)
                sums = self._run(points, self.grid.words(self.shape, first, padded), key, words(start), words(stop))
                sums = jax.tree.map(lambda x: np.asarray(x)[: self.extent.cells], sums)
                return moments_of(sums, stop - start)
            except Exception as error:
                if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                    raise
                self.extent = self.extent.halved()
                log.warning(
                    "sweep: out of memory; continuing with %d cells of %d replicates at once",
                    self.extent.batch,
                    self.extent.lanes,
                )
                self._compile()


def _gradients(
    grid: Grid, shape: Shape, estimators: Mapping[str, Estimator], point: Mapping[str, Array], key: Array
) -> Any:
    """One estimate by every estimator, all with the same key. `point` overrides the parameters of the shape."""
    problem, base = grid.by_shape[shape]
    return {name: gradient(problem, {**base, **point}, grid.wrt, key, shape.n, e) for name, e in estimators.items()}


def _size_of_call(grid: Grid, shape: Shape, estimators: Mapping[str, Estimator]) -> tuple[int, int]:
    """`size_of` for one estimate by every estimator."""
    draw = lambda key: _gradients(grid, shape, estimators, {}, key)
    return size_of(jax.make_jaxpr(draw)(jax.random.key(0)).jaxpr)


def _many(
    grid: Grid,
    shape: Shape,
    estimators: Mapping[str, Estimator],
    common: bool,
    batch: int,
    lanes: int,
    points: Mapping[str, Array],
    words_of: Array,
    key: Array,
    start: Any,
    stop: Any,
) -> Any:
    """The power sums of each cell, batch by batch."""
    estimate = partial(_gradients, grid, shape, estimators)

    def one(cell: Any) -> Any:
        point, word = cell
        own = jax.random.fold_in(jax.random.fold_in(key, word[0]), word[1])
        return power_sums(lambda k: estimate(point, k), own, start, stop, lanes)

    def together(cells: Any) -> Any:
        shared = jax.random.fold_in(jax.random.fold_in(key, shape.dimension), shape.n)
        # Over the words too: there are no points if only n or the dimension varies.
        each = lambda k: jax.vmap(lambda point, _: estimate(point, k))(*cells)
        return power_sums(each, shared, start, stop, lanes)

    inner = together if common else jax.vmap(one)
    batches = jax.tree.map(lambda x: jnp.reshape(x, (-1, batch, *x.shape[1:])), (points, words_of))
    sums = lax.map(inner, batches)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), sums)


def _power_of_two(x: float) -> int:
    return 2 ** max(0, math.floor(math.log2(max(1.0, x))))


def merged(parts: Sequence[Moments]) -> Moments:
    """The moments of the same cells, merged over several ranges of replicates."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole
