"""The programs that would run on an NVIDIA GPU, lowered here by `jax.export` and read as StableHLO.

They contain no host callback, no 64-bit number and no gather of noise, and each loop is one `while`.
"""

import re

import jax
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad
from rgrad.measurement import words
from rgrad.sweeps import Cells, devices_for, extent_for, grid_of

KEY = jax.random.key(0)
GATHER = re.compile(r'"stablehlo\.gather".* -> tensor<([\dx]+)x[a-z]\w+>')


class Square:
    params = {"loc": 2.0}  # noqa: RUF012
    distribution = staticmethod(lambda params: dist.Normal(params["loc"], 1.0))
    objective = staticmethod(lambda params, x: x**2)


def both(key):
    """One call of both gradients of the post's problem, with 10 samples."""
    loss = lambda theta, e: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 10, e)
    return [jax.grad(loss)(2.0, e) for e in (rgrad.score_function, rgrad.reparameterized)]


def measure():
    return jax.jit(lambda key: rgrad.measure(both, key, 10**6)), (KEY,)


def fit():
    loss = lambda params, key: rgrad.expect(lambda x: (x - 3) ** 2, dist.Normal(params["mu"], 1.0), key, 10)
    one = lambda key: rgrad.fit(loss, {"mu": 0.0}, optax.adam(0.1), key, 100)
    return jax.jit(jax.vmap(one)), (jax.random.split(KEY, 8),)


def sweep(common):
    """The program of one chunk of a sweep of eight cells, sharded over one device."""
    grid, devices = grid_of(Square(), {"loc": np.linspace(-1, 1, 8), "n": [10]}), devices_for(1)
    estimators = {"score_function": rgrad.score_function, "reparameterized": rgrad.reparameterized}
    extent = extent_for(grid, grid.shapes[0], estimators, 1000, devices, common)
    cells = Cells(grid, grid.shapes[0], estimators, extent, devices, common)
    points, of_cells = (of(grid.shapes[0], 0, extent.cells) for of in (grid.points, grid.words))
    return cells._run, (points, of_cells, KEY, words(0), words(1000))


PROGRAMS = {
    "measure": (measure, 1),
    "fit": (fit, 1),
    "sweep": (lambda: sweep(False), 2),  # the loop over cells around the loop over replicates
    "sweep, common noise": (lambda: sweep(True), 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_for_a_gpu(name):
    make, loops = PROGRAMS[name]
    program, arguments = make()
    exported = jax.export.export(program, platforms=("cuda",))(*arguments)
    text = exported.mlir_module()
    assert exported.platforms == ("cuda",)
    assert "custom_call" not in text  # callbacks and calls of libraries
    assert not re.search(r"\bf64\b|xf64>", text)
    assert len(re.findall(r"stablehlo\.while", text)) == loops
    assert "stablehlo.case" not in text
    assert text.count("stablehlo.shift_left") + text.count("shift_right_logical") > 0  # the rounds of threefry
    # A gather only picks one lane of the few results of each cell.
    for shape in GATHER.findall(text):
        assert shape.endswith("x1"), shape
        assert np.prod([int(size) for size in shape.split("x")]) <= 8 * 2
    assert len(GATHER.findall(text)) == text.count('"stablehlo.gather"(')


def test_the_test_detects_what_it_looks_for():
    """A callback, a number of 64 bits and a gather of noise are in the text of programs that have them."""

    def text(f, *arguments):
        return jax.export.export(jax.jit(f), platforms=("cuda",))(*arguments).mlir_module()

    gathered = text(lambda key, at: jax.random.normal(key, (1000,))[at], KEY, np.arange(50))
    assert GATHER.findall(gathered) == ["50"]
    assert "custom_call" in text(lambda x: jax.numpy.linalg.cholesky(x), np.eye(3, dtype=np.float32))
    with jax.enable_x64(True):
        assert re.search(r"\bf64\b|xf64>", text(lambda x: x + 1, np.ones(3)))
