"""`rgrad.sweep`: every cell is right and has its own draws, each shape has one program, and bad input is refused."""

import itertools
import logging
import os
import subprocess
import sys

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from experiments.common.problems import PROBLEMS
from rgrad.sweeps.cells import CALL, Cells, Extent, devices_for, extent_for
from rgrad.sweeps.grid import Shape, grid_of

KEY = jax.random.key(5)
PATHWISE = {"reparameterized": rgrad.reparameterized}
ONE = {"score_function": rgrad.score_function}
BOTH = PATHWISE | ONE


class square:
    params = {"loc": 2.0, "scale": 1.0, "power": 2}  # noqa: RUF012
    wrt = ("loc",)

    def distribution(p):
        return dist.Normal(p["loc"], p["scale"])

    def objective(p, x):
        return x ** p["power"]


quadratic = PROBLEMS["quadratic"]  # E sum x^2 in d dimensions
AXES = {"scale": [0.5, 1.0, 2.0], "loc": [-1.0, 0.0, 3.0], "n": [4, 20]}


@pytest.fixture(scope="module")
def swept():
    return rgrad.sweep(square, AXES, BOTH, key=KEY, replicates=20_000)


def test_every_cell_is_right(swept):
    """36 means and 36 variances within 6 standard errors.

    False failures: 1.4e-7 in total for a normal; the score function's tails at n = 4 raise that to just under 1e-6.
    Catches a mean that is off by 4 % of a gradient's standard deviation, and a variance that is off by 10 %
    (reparameterized) to 25 %.
    """
    locs, scales = np.meshgrid([-1.0, 0.0, 3.0], [0.5, 1.0, 2.0], indexing="ij")
    for size in (4, 20):
        moments = swept.moments(n=size)
        for name, of in (
            ("reparameterized", 4 * scales**2),
            # x^2 eps / s, x = m + s eps: E x^4 eps^2 - 4 m^2 s^2, over s^2
            ("score_function", (locs**4 + 18 * locs**2 * scales**2 + 15 * scales**4) / scales**2 - 4 * locs**2),
        ):
            mean, variance = moments.mean[name]["loc"], moments.variance[name]["loc"]
            assert mean.shape == (3, 3)
            assert np.all(np.abs(mean - 2 * locs) <= 6 * moments.standard_error[name]["loc"])
            low, high = (bound[name]["loc"] for bound in moments.variance_interval())
            assert np.all(np.abs(variance - of / size) <= 6 * (high - low) / 2 / 1.96)


def test_rows(swept):
    rows = swept.rows
    assert len(rows) == 2 * 9 * 2
    assert list(rows[0])[:6] == ["n", "loc", "scale", "estimator", "parameter", "replicates"]
    place = lambda row: (row["n"], row["loc"], row["scale"], row["estimator"])
    assert [place(r) for r in rows] == sorted(place(r) for r in rows)
    assert set(map(place, rows)) == set(itertools.product([4, 20], [-1.0, 0.0, 3.0], [0.5, 1.0, 2.0], BOTH))


def same_draws(a, b):
    """Within 1e-6, or 1e-6 of a standard deviation if that is more."""
    for x, y in zip(a.rows, b.rows, strict=True):
        assert list(x.items())[:6] == list(y.items())[:6]
        for name in ("mean", "variance", "standard_error"):
            assert abs(x[name] - y[name]) <= 1e-6 * max(abs(x[name]), x["variance"] ** 0.5), (name, x, y)


@pytest.mark.parametrize("common", [False, True])
def test_neither_the_order_of_the_axes_nor_the_chunk_matters(common):
    go = lambda axes, **options: rgrad.sweep(square, axes, ONE, key=KEY, replicates=300, common_noise=common, **options)
    first = go({"loc": [0.0, 1.0, 2.0], "scale": [1.0, 2.0], "n": [10]})
    other = go({"n": [10], "scale": [2.0, 1.0], "loc": [2.0, 0.0, 1.0]}, chunk=4)
    same_draws(first, other)
    # The other cells do not matter either, nor whether a parameter is an axis.
    alone = rgrad.sweep(square, {"loc": [1.0]}, ONE, {"scale": 2.0}, key=KEY, replicates=300, common_noise=common)
    same = [row for row in first.rows if (row["loc"], row["scale"]) == (1.0, 2.0)]
    assert [r["mean"] for r in alone.rows] == pytest.approx([r["mean"] for r in same], rel=1e-6)
    assert alone.rows[0]["mean"] != first.rows[0]["mean"]


def test_cells_have_their_own_draws_unless_they_share_them():
    """x = loc + eps: with common noise, 2 x differs between cells by exactly 2 (loc' - loc).

    Without it, the difference has standard deviation 0.13 and is within 1e-7 of 2 with probability 6e-7.
    """
    axes = {"loc": [0.0, 1.0]}
    own = rgrad.sweep(square, axes, PATHWISE, key=KEY, replicates=50).moments().mean["reparameterized"]["loc"]
    shared = rgrad.sweep(square, axes, PATHWISE, key=KEY, replicates=50, common_noise=True)
    shared = shared.moments().mean["reparameterized"]["loc"]
    assert shared[1] - shared[0] == pytest.approx(2.0, abs=1e-6)
    assert abs(own[1] - own[0] - 2.0) > 1e-7


def test_a_cell_is_measured_as_by_measure():
    """The same moments as `measure` with the cell's own key."""
    grid = grid_of(square, {"loc": [0.5, 1.5], "n": [8]})
    words = grid.words(grid.shapes[0], 1, 1)[0]
    key = jax.random.fold_in(jax.random.fold_in(KEY, words[0]), words[1])
    loss = lambda loc, k: rgrad.expect(lambda x: x**2, dist.Normal(loc, 1.0), k, 8, rgrad.score_function)
    moments = rgrad.measure(lambda k: jax.grad(loss)(1.5, k), key, 3000)
    of = rgrad.sweep(square, {"loc": [0.5, 1.5], "n": [8]}, ONE, key=KEY, replicates=3000).moments()
    assert of.mean["score_function"]["loc"][1] == pytest.approx(moments.mean, rel=1e-6)
    assert of.m4["score_function"]["loc"][1] == pytest.approx(moments.m4, rel=1e-5)


@pytest.mark.parametrize("common", [False, True])
def test_axes_without_a_parameter(common):
    """Only n varies, or nothing. A cell has the same draws in every sweep that contains it."""
    of = lambda axes: rgrad.sweep(square, axes, PATHWISE, key=KEY, replicates=500, common_noise=common)
    only_n, point, with_loc = of({"n": [4, 10]}), of({}), of({"loc": [2.0], "n": [10]})
    assert [(row["n"], row["estimator"]) for row in only_n.rows] == [
        (4, "reparameterized"),
        (10, "reparameterized"),
    ]
    means = [
        moments.mean["reparameterized"]["loc"].item()
        for moments in (only_n.moments(n=10), point.moments(), with_loc.moments())
    ]
    assert means == pytest.approx([means[0]] * 3, rel=1e-6)
    # The standard error is 2 / sqrt(10 * 500) = 0.028. False failures: 1e-12.
    assert means[0] == pytest.approx(4.0, abs=0.2)


def test_dimension_is_an_axis():
    swept = rgrad.sweep(
        quadratic, {"dimension": [1, 3], "loc": [0.0, 2.0], "n": [5]}, PATHWISE, key=KEY, replicates=2000
    )
    of = swept.moments(dimension=3).mean["reparameterized"]["loc"]
    assert of.shape == (2, 3)
    # A normal with standard deviation 2/sqrt(5 * 2000) = 0.02. 8 of them: false failures 1e-14.
    assert of == pytest.approx(np.array([[0.0] * 3, [4.0] * 3]), abs=0.16)
    assert [row["parameter"] for row in swept.rows[:2]] == ["loc[0]", "loc[0]"]
    with pytest.raises(ValueError, match="choose one of: n=5, dimension=1; n=5, dimension=3"):
        swept.moments()


def test_one_program_for_each_shape(caplog):
    """Each of two shapes is compiled once, whatever the cells, the chunks and the replicates."""
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        rgrad.sweep(square, {"loc": np.linspace(0, 1, 9), "n": [2, 3]}, ONE, key=KEY, replicates=64, chunk=2)
    compiled = [r for r in caplog.records if "Finished XLA compilation" in r.message and "_many" in r.message]
    assert len(compiled) == 2


def test_out_of_memory_halves_what_is_in_flight(monkeypatch, caplog):
    grid = grid_of(square, {"loc": np.linspace(0, 3, 8)})
    tried = []
    build = Cells._compile

    def small(self):
        build(self)
        run, at = self._run, (self.extent.batch, self.extent.lanes)

        def guarded(*arguments):
            tried.append(at)
            if at[0] * at[1] > 8:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return run(*arguments)

        self._run = guarded

    whole = Cells(grid, grid.shapes[0], BOTH, Extent(8, 64, 1, 8), devices_for(), False).measure(KEY, 0, 0, 64)
    monkeypatch.setattr(Cells, "_compile", small)
    cells = Cells(grid, grid.shapes[0], BOTH, Extent(8, 64, 4, 16), devices_for(), False)
    halved = cells.measure(KEY, 0, 0, 64)
    assert tried == [(4, 16), (2, 16), (1, 16), (1, 8)]
    assert cells.extent == Extent(8, 64, 1, 8)
    assert "out of memory" in caplog.text
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    jax.tree.map(same, whole, halved)
    with pytest.raises(MemoryError, match="smaller n"):
        Extent(8, 64, 1, 1).halved()


def test_what_is_in_flight_fits():
    """The amount in flight does not depend on the number of cells, so neither does the memory."""
    few, many = (grid_of(square, {"loc": np.linspace(0, 1, points), "n": [1000]}) for points in (64, 100_000))
    of = [
        extent_for(g, g.shapes[0], BOTH, 1000, devices_for(), common) for common in (False, True) for g in (few, many)
    ]
    assert of[0].lanes * of[0].batch == of[1].lanes * of[1].batch == of[2].lanes * of[2].batch
    assert of[2].batch >= 16 * of[0].batch  # common noise is made once for many cells
    assert all(e.cells * e.replicates * 1000 <= 2 * CALL["cpu"] for e in of)
    long = extent_for(few, few.shapes[0], BOTH, 10**9, devices_for(), False)
    assert long.replicates < 10**9
    assert long.replicates % long.lanes == 0


def test_two_devices():
    """Two devices give the same moments within 1e-6. Runs in a separate process."""
    program = """if True:
        import jax, numpy as np
        from experiments.common.problems import PROBLEMS
        import rgrad
        assert len(jax.devices()) == 2
        axes = {"loc": [0.0, 1.0, 2.0], "n": [10]}
        both = {"score_function": rgrad.score_function}
        two = rgrad.sweep(PROBLEMS["square"], axes, both, key=jax.random.key(5), replicates=300)
        one = rgrad.sweep(PROBLEMS["square"], axes, both, key=jax.random.key(5), replicates=300, devices=jax.devices()[:1])
        for a, b in zip(one.rows, two.rows, strict=True):
            assert abs(a["mean"] - b["mean"]) <= 1e-6 * a["variance"]**.5, (a, b)
            assert abs(a["variance"] / b["variance"] - 1) <= 1e-6, (a, b)
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"loc": []}, {}, "axis loc is empty"),
        ({"lok": [1.0]}, {}, "axis lok: this problem has no such parameter"),
        ({"loc": [1.0, 2.0, 1.0]}, {}, "duplicate cells: axis loc has 1.0 more than once"),
        ({"loc": [1.0, 1.0 + 1e-9]}, {}, "in 32-bit floats"),
        ({"loc": [0.0, -0.0]}, {}, "duplicate cells"),
        ({"loc": [np.nan]}, {}, "must be finite"),
        ({"loc": [[1.0, 2.0]]}, {}, r"values of shape \(2,\), but the parameter has shape \(\)"),
        ({"loc": [1.0, [2.0]]}, {}, "must be numbers or arrays of one shape"),
        ({"power": [1.5]}, {}, "the parameter is an integer"),
        ({"n": [0]}, {}, "must be whole numbers of at least 1, got 0"),
        ({"n": [5, 5]}, {}, "axis n has a value more than once"),
        ({"dimension": [2]}, {}, "has no of_dimension"),
        ({"loc": [1.0]}, {"params": {"loc": 2.0}}, "both an axis and a fixed parameter"),
        ({"loc": [1.0]}, {"replicates": 0}, "replicates must be an int of at least 1, got 0"),
        ({"loc": [1.0]}, {"chunk": 0}, "chunk must be at least 1 cell, got 0"),
        ({"loc": [1.0]}, {"estimators": {}}, "estimators is empty"),
    ],
)
def test_bad_input(axes, options, message):
    with pytest.raises(ValueError, match=message):
        rgrad.sweep(square, axes, key=KEY, **options)


def test_devices_for():
    assert devices_for(1) == jax.local_devices()[:1]
    with pytest.raises(ValueError, match=r"must be 1 to .* got 99"):
        devices_for(99)


def test_the_key_of_a_cell_is_of_its_coordinates():
    """No two cells have the same words. An array filled with one number has the words of that number."""
    grid = grid_of(square, {"loc": np.linspace(-1, 1, 50), "scale": np.linspace(1, 2, 40), "n": [1, 2]})
    words = np.concatenate([grid.words(shape, 0, grid.cells) for shape in grid.shapes])
    assert len(np.unique(words, axis=0)) == len(words) == 4000
    filled = grid_of(quadratic, {"loc": [2.0]}).words(Shape(0, 10), 0, 1)
    assert np.array_equal(filled, grid_of(quadratic, {"loc": [[2.0, 2.0]]}).words(Shape(0, 10), 0, 1))
