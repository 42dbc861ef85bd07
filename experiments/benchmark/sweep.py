"""The section `sweep` of `experiments.benchmark`: many cells of 1e6 draws each, against a Python loop over the cells."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rgrad
from experiments.benchmark.rivals import OURS, WrongResult
from experiments.common.problems import PROBLEMS
from rgrad.measurement import moments_of, options, power_sums, words
from rgrad.problems import gradient
from rgrad.sweeps import Cells, devices_for, each, extent_for, grid_of

SIZE, REPLICATES = 1_000, 1_000  # 1e6 draws per cell
ESTIMATORS = {name: rgrad.ESTIMATORS[name].estimator for name in ("score_function", "reparameterized")}
RECOMPILED = 3  # cells of the loop that compiles each cell, which takes seconds
SLACK = 7.0  # largest error of a correct mean in standard errors, over thousands of cells


def swept(cells: int, common: bool) -> Callable[[int], float]:
    """Cells per second of a sweep, without its single compilation."""
    grid, devices = _grid(cells), devices_for()
    shape = grid.shapes[0]
    extent = extent_for(grid, shape, ESTIMATORS, REPLICATES, devices, common)
    program = Cells(grid, shape, ESTIMATORS, extent, devices, common)
    program.measure(jax.random.key(0), 0, 0, REPLICATES)  # compiles

    def job(turn: int) -> float:
        began, key = time.perf_counter(), jax.random.key(turn)
        for first, stop in each(grid.cells, extent.cells):
            moments = program.measure(key, first, 0, REPLICATES)
            _check(moments, grid.coordinates(first, extent.cells)["loc"], stop - first)
        return cells / (time.perf_counter() - began)

    return job


def looped(cells: int, again: bool) -> Callable[[int], float]:
    """Cells per second of a Python loop, over one compiled function or (`again`) a new function for each cell."""
    locs = _grid(cells).axes["loc"]

    def program() -> Any:
        def sums(loc: Array, key: Array) -> Any:
            draw = lambda k: {
                name: gradient(PROBLEMS["square"], {"loc": loc, "scale": jnp.float32(1)}, ("loc",), k, SIZE, estimator)
                for name, estimator in ESTIMATORS.items()
            }
            return power_sums(draw, key, words(0), words(REPLICATES), None)

        return jax.jit(sums, compiler_options=options())

    once = program()
    if not again:
        once(locs[0], jax.random.key(0))

    def job(turn: int) -> float:
        begun, key = time.perf_counter(), jax.random.key(turn)
        places = range(RECOMPILED) if again else range(cells)
        for i in places:
            run = program() if again else once
            moments = moments_of(jax.device_get(run(locs[i], jax.random.fold_in(key, i))), REPLICATES)
            _check(jax.tree.map(lambda x: np.reshape(x, -1), moments), locs[i : i + 1], 1)
        return len(places) / (time.perf_counter() - begun)

    return job


CONTENDERS: dict[str, Callable[[int], Callable[[int], float]]] = {
    OURS: partial(swept, common=False),
    "rgrad, noise in common": partial(swept, common=True),
    "loop, compiled once": partial(looped, again=False),
    "loop, each compiled": partial(looped, again=True),
}


def _grid(cells: int) -> Any:
    return grid_of(PROBLEMS["square"], {"loc": np.linspace(-3, 3, cells), "n": [SIZE]})


def _check(moments: Any, locs: np.ndarray[Any, Any], count: int) -> None:
    """Checks that each mean is 2 loc. Raises WrongResult if one is not."""
    for name, of in moments.mean.items():
        off = np.abs(np.ravel(of["loc"]) - 2 * locs) / np.ravel(moments.standard_error[name]["loc"])
        if not np.all(off[:count] <= SLACK):
            raise WrongResult(f"sweep, {name}: a mean is {np.max(off[:count]):.1f} standard errors off")
