"""The map of where REINFORCE has the lower variance: quadrature against closed forms, and the report of a run."""

import csv
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad
from scipy.special import gamma

from experiments.crossover import CrossoverSettings, run
from experiments.crossover import exact as crossover_exact
from experiments.crossover import study as task
from experiments.crossover.cells import FunctionFamily, MapCells, at, functions, map_cells
from experiments.crossover.exact import exact, sine_variances
from experiments.crossover.study import estimates

KEY = jax.random.key(0)
MINE = """
import jax.numpy as jnp
def mu(phi): return jnp.sin(phi)
def negative(phi): return phi - 1
def vector(phi): return jnp.stack([phi, phi])
def root(phi): return jnp.sqrt(phi)
def broken(phi): return nothing
number = 3.0
"""


def function(name, **settings):
    return functions(CrossoverSettings(functions=(name,), **settings))[0]


def cells(knob, mu=0.0, sigma=1.0, dmu=1.0, dsigma=0.0):
    one = np.ones(np.shape(knob))
    return MapCells(np.asarray(knob, float), mu * one, sigma * one, dmu * one, dsigma * one, np.nan * one)


def joined(*of):
    """Several sets of cells as one, so one program handles all."""
    return MapCells(*(np.concatenate([np.ravel(x) for x in xs]) for xs in zip(*of, strict=True)))


@pytest.mark.long
def test_quadrature_of_a_sine_is_the_closed_form_on_the_whole_grid():
    """Both variances agree to a relative 1e-8 in all cells of the default map, and for mu = 0, sigma = 1.

    The map has mu = 0.7 here, because a run itself checks its own mu. The identity that the experiment prints holds
    too: Var(r s) - Var(r') = E r^2 / sigma^2 + E r'^2 + 2 E r r'' for d/d mu.
    """
    settings, sine = CrossoverSettings(loc=0.7), function("sine")
    ones = [cells(sine.knobs, dmu=dmu, dsigma=1 - dmu) for dmu in (0.0, 1.0)]
    grid = joined(map_cells(sine, settings), *ones)
    assert grid.knob.size == 2 * settings.cells**2 + 2 * settings.cells
    assert np.isclose(grid.sigma, 1).sum() == 4 * settings.cells
    truth = exact(sine, grid)
    score, path = sine_variances(grid)
    assert truth.resolved.all()
    np.testing.assert_allclose(truth.score_function, score, rtol=1e-8)
    np.testing.assert_allclose(truth.reparameterized, path, rtol=1e-8)
    why = truth.r_square / grid.sigma**2 + truth.slope_square + 2 * truth.r_curvature
    size = truth.r_square / grid.sigma**2 + truth.slope_square
    off = (truth.score_function - truth.reparameterized - why) / size
    assert np.abs(off[grid.dmu == 1]).max() < 1e-10


def test_the_closed_forms_of_a_sine_are_those_of_an_independent_quadrature():
    """Gauss-Hermite with 200 nodes, not the experiment's rule, on the definitions. Also checks the 0.5 against 50."""
    for score, path in [sine_variances(cells([10.0]))]:
        assert score == pytest.approx(0.5, rel=1e-12)
        assert path == pytest.approx(50, rel=1e-12)
    eps, weight = hermegauss(200)
    weight /= weight.sum()
    for w, mu, sigma in ((0.3, 0.0, 1.0), (2.0, 0.7, 1.0), (1.5, -1.2, 2.0)):
        z = mu + sigma * eps
        for dmu, dsigma in ((1.0, 0.0), (0.0, 1.0)):
            one = np.sin(w * z) * (dmu * eps + dsigma * (eps**2 - 1)) / sigma
            two = w * np.cos(w * z) * (dmu + dsigma * eps)
            found = sine_variances(cells([w], mu, sigma, dmu, dsigma))
            for x, variance in zip((one, two), found, strict=True):
                assert variance[0] == pytest.approx(weight @ (x - weight @ x) ** 2, rel=1e-9)


def test_other_functions_are_integrated_right():
    """Powers and polynomials against moments of a normal, the sigmoid against an adaptive rule.

    One power is |z|^0.6, whose squared slope is singular at 0. Also tests the best constant and its variance, and that
    infinite variances are reported as such.
    """
    q = np.array([0.2, 0.5, 0.6, 1.0])
    p = np.array([0.6, 0.75, 1.0, 2.0, 3.5, 5.0])
    sets = (cells(p, sigma=2.0), cells(q), cells(q, dmu=0.0, dsigma=1.0), cells(q, mu=1.0, dmu=0.0, dsigma=1.0),
            cells([2.0]))  # fmt: skip
    truth = exact(function("power"), joined(*sets))
    ends = np.cumsum([c.knob.size for c in sets])
    power, by_mu, by_sigma, off_centre, two = (
        at(truth, slice(end - c.knob.size, end)) for c, end in zip(sets, ends, strict=True)
    )
    assert truth.resolved.all()
    absolute = lambda k: 2 ** (k / 2) * gamma((k + 1) / 2) / np.sqrt(np.pi)  # E|eps|^k
    np.testing.assert_allclose(power.score_function, 2.0 ** (2 * p - 2) * absolute(2 * p + 2), rtol=1e-9)
    np.testing.assert_allclose(power.reparameterized, 2.0 ** (2 * p - 2) * p**2 * absolute(2 * p - 2), rtol=1e-8)
    np.testing.assert_allclose(power.constant, 2.0**p * absolute(p + 2), rtol=1e-9)
    best = 2.0 ** (2 * p - 2) * (absolute(2 * p + 2) - absolute(p + 2) ** 2)
    np.testing.assert_allclose(power.best_constant, best, rtol=1e-9)

    # r' is square integrable if p > 1/2, and for any p if dz/dphi is 0 at z = 0 (d/d sigma at mu = 0).
    assert np.isinf(by_mu.reparameterized).tolist() == [True, True, False, False]
    assert np.isinf(off_centre.reparameterized).tolist() == [True, True, False, False]
    np.testing.assert_allclose(by_sigma.reparameterized, q**2 * (absolute(2 * q) - absolute(q) ** 2), rtol=1e-9)
    assert np.isfinite(by_mu.score_function).all()
    # A sum of two squares: E[(z_1^2 + z_2^2)^2 z_1^2] = 24, and with the best constant, 4, it is 8.
    rows, constants = task._sums(function("power"), at(sets[4], 0), at(two, 0), (1, 2))
    assert [r["score_function"] for r in rows] == pytest.approx([15, 24])
    assert [r["best_constant"] for r in rows] == pytest.approx([6, 8])
    assert [r["reparameterized"] for r in rows] == pytest.approx([4, 4])
    assert constants == pytest.approx([3, 4])

    # T_3 = 4 z^3 - 3 z at N(mu, 1): five nodes of Gauss-Hermite are exact to degree 9.
    eps, weight = hermegauss(6)
    z, weight = eps + 0.5, weight / weight.sum()
    r, slope = 4 * z**3 - 3 * z, 12 * z**2 - 3
    found = exact(function("polynomial"), joined(cells([3.0], mu=0.5), cells([1.0])))
    assert found.reparameterized[1] == 0  # a straight line has no variance
    gradient = weight @ slope
    assert found.mean[0] == pytest.approx(gradient, rel=1e-12)
    assert found.reparameterized[0] == pytest.approx(weight @ (slope - gradient) ** 2, rel=1e-10)
    assert found.score_function[0] == pytest.approx(weight @ (r * eps - gradient) ** 2, rel=1e-10)

    found = exact(function("sigmoid"), cells([5.0, 300.0], mu=0.2, sigma=0.6, dmu=0.3, dsigma=-2.0))
    for i, w in enumerate((5.0, 300.0)):
        r = lambda z: 1 / (1 + np.exp(-w * z)) if abs(w * z) < 700 else float(z > 0)
        eps = lambda z: (z - 0.2) / 0.6
        density = lambda z: np.exp(-(eps(z) ** 2) / 2) / np.sqrt(2 * np.pi) / 0.6
        score = lambda z: r(z) * (0.3 * eps(z) - 2 * (eps(z) ** 2 - 1)) / 0.6
        path = lambda z: w * r(z) * (1 - r(z)) * (0.3 - 2 * eps(z))
        for name, g in (("score_function", score), ("reparameterized", path)):
            mean, square = (
                quad(lambda z: g(z) ** k * density(z), -5, 5, points=[-0.05, 0, 0.05], epsabs=1e-12, epsrel=1e-12, limit=500)[0]
                for k in (1, 2)
            )  # fmt: skip
            assert getattr(found, name)[i] == pytest.approx(square - mean**2, rel=1e-7)


def test_the_two_estimates_are_those_of_the_question(x64):
    """E1 = mean of r(z) d log q(z; phi)/d phi and E2 = mean of r'(z) dz/d phi, written out for the same noise."""
    mu, sigma, phi, r = jnp.tanh, jax.nn.softplus, 0.4, lambda z: jnp.sin(3 * z) + z**2
    found = jax.jit(lambda phi: estimates(r, mu, sigma, phi, KEY, n=7, constant=0.3))(phi)
    eps = jax.random.normal(KEY, (7,))
    m, s, dm, ds = mu(phi), sigma(phi), jax.grad(mu)(phi), jax.grad(sigma)(phi)
    z = m + s * eps
    score = eps / s * dm + (eps**2 - 1) / s * ds
    np.testing.assert_allclose(found["score_function"], jnp.mean(r(z) * score), rtol=1e-12)
    np.testing.assert_allclose(found["best_constant"], jnp.mean((r(z) - 0.3) * score), rtol=1e-12)
    path = (3 * jnp.cos(3 * z) + 2 * z) * (dm + ds * eps)
    np.testing.assert_allclose(found["reparameterized"], jnp.mean(path), rtol=1e-12)


def test_a_function_that_quadrature_cannot_do_is_measured(monkeypatch):
    """With too few nodes nothing is called exact, and the measured variances agree with the closed form.

    They agree within 6 standard errors of 40,000 draws with kurtosis under 6 (sin(2 z) and sin(4 z)). False failures:
    under 1e-6 for the 24 numbers. Catches 7 %.
    """
    monkeypatch.setattr(crossover_exact, "MOST_NODES", 8)
    settings = CrossoverSettings(functions=("sine",), frequencies=(2.0, 4.0), scales=(0.5, 1.0), cells=3, checked=1, replicates=40_000,
                         dimensions=(1,))  # fmt: skip
    found = task.measured_and_exact(settings, FunctionFamily(jnp.sin, jax.nn.softplus), KEY, lambda done: None)
    rows = [r for r in found.rows if r["part"] == "map"]
    assert len(rows) == 2 * 3 * 3
    assert {r["source"] for r in rows} == {"measured"}
    assert found.closed_form_error is None
    for r in rows:
        score, path = sine_variances(
            cells([r["value"]], 0.0, r["sigma"], float(r["parameter"] == "mu"), float(r["parameter"] == "sigma"))
        )
        assert r["score_function"] == pytest.approx(score[0], rel=6 * (5 / 40_000) ** 0.5)
        assert r["reparameterized"] == pytest.approx(path[0], rel=6 * (5 / 40_000) ** 0.5)
    assert not any(c["judged"] for c in found.checks)


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)


SMALL = ("--functions", "sine", "--frequencies", 1, 10, "--scales", 0.5, 2, "--cells", 3, "--checked", 2,
         "--replicates", 40_000, "--dimensions", 1, 100, "--mu", "mine.py:mu", "--sigma", "constant", "--out", "here")  # fmt: skip


def test_a_run(run_main, mine):
    """A run with a user's mu(phi) and a constant sigma. Every |z| is below 5.

    If the seed were not fixed, one of the 60 numbers would exceed 5 with probability 3e-5. A variance that is off by
    2.5 % to 13 % is caught (40,000 draws of kurtosis 1.5 to 15).
    """
    status, out, err = run_main(CrossoverSettings, run, *SMALL)
    assert (status, err) == (0, "")
    assert "0 disagree with quadrature" in out
    assert float(re.findall(r"closed forms in every cell of the map, to (\S+) relative", out)[0]) < 1e-10
    (line,) = re.findall(r"sin\(10 z\) +0\.5 +0\.5 +50 +0\.5 +50 +-100 +(\S+)", out)
    assert line == "0.01"
    result = json.loads(Path("here/result.json").read_text())
    rows = result["rows"]
    assert {r["part"] for r in rows} == {"map", "phi", "dimension"}
    # d/d phi at mu = sin(phi), sigma = 1: that of mu, times cos(phi).
    for r in (r for r in rows if r["part"] == "phi"):
        score, path = sine_variances(cells([10.0], np.sin(r["phi"])))
        assert (r["mu"], r["sigma"]) == (pytest.approx(np.sin(r["phi"])), 1)
        assert r["score_function"] == pytest.approx(np.cos(r["phi"]) ** 2 * score[0], rel=1e-8)
        assert r["reparameterized"] == pytest.approx(np.cos(r["phi"]) ** 2 * path[0], rel=1e-8)
    # For a sum over D coordinates, the variance of REINFORCE is D / 2, and the other is 50. They are equal at D = 100.
    sums = {r["dimension"]: r for r in rows if r["part"] == "dimension"}
    assert sums[1]["log10_ratio"] == pytest.approx(-2)
    assert sums[100]["log10_ratio"] == pytest.approx(0, abs=1e-8)
    checks = list(csv.DictReader(Path("here/checks.csv").open()))
    assert {c["part"] for c in checks} == {"map", "phi", "dimension"}
    assert all(float(c["variance_low"]) < float(c["variance"]) < float(c["variance_high"]) for c in checks)


def test_wrong_quadrature_is_detected(run_main, mine, monkeypatch):
    """Exit status 1, and a line that names the place, if an exact variance is a quarter too large."""
    right = task.exact

    def wrong(function, cells):
        found = right(function, cells)
        return found._replace(score_function=1.25 * found.score_function)

    monkeypatch.setattr(task, "exact", wrong)
    status, out, _ = run_main(CrossoverSettings, run, *SMALL)
    assert status == 1
    assert "disagrees: sin(" in out
    assert "d/d sigma, score_function: mean" in out
    assert "disagrees: quadrature and the closed forms of sin(omega z) have a relative difference of 0.25" in out
    assert Path("here/table.csv").exists()


BAD = [
    (["--functions", "cosine"], "--functions: 'cosine' is not a choice; expected one of"),
    (["--functions"], "--functions: nothing is given"),
    (["--functions", "sine", "sine"], "has a duplicate"),
    (["--frequencies", "10", "1"], "--frequencies: 10 1: the first end must be below the second"),
    (["--frequencies", "0", "1"], "--frequencies: input should be greater than or equal to 0.001"),
    (["--powers", "0", "1"], "--powers: input should be greater than or equal to 0.01"),
    (["--degrees", "1", "99"], "--degrees: input should be less than or equal to 24"),
    (["--scales", "1", "1"], "the first end must be below the second"),
    (["--scales", "-1", "1"], "--scales: input should be greater"),
    (["--loc", "nan"], "--loc: input should be"),
    (["--amplitude", "inf"], "--amplitude: input should be a finite number, not inf"),
    (["--cells", "2"], "--cells: input should be greater than or equal to 3"),
    (["--phis", "3", "-3"], "--phis: 3 -3: the first end"),
    (["--dimensions", "0"], "--dimensions: input should be greater than or equal to 1"),
    (["--dimensions", "4", "4"], "has a duplicate"),
    (["--checked", "0"], "--checked: input should be greater than or equal to 1"),
    (["--replicates", "10"], "--replicates: input should be greater than or equal to 1000"),
    (["--mu", "linaer"], "--mu linaer: unknown name; did you mean 'linear'?"),
    (["--sigma", "mine.py:nothing"], "mine.py has no 'nothing'"),
    (["--sigma", "linear"], "--sigma linear: at phi = -3 it is -3 with derivative 1; it must be positive"),
    (["--sigma", "mine.py:negative"], "it must be positive"),
    (["--mu", "mine.py:number"], "--mu mine.py:number: not a function"),
    (["--mu", "mine.py:vector"], "--mu mine.py:vector: got shape (2,) for one phi; return one number"),
    (["--mu", "mine.py:root"], "--mu mine.py:root: at phi = -3 it is nan with derivative nan; it must be finite"),
    (["--mu", "mine.py:broken"], "NameError: name 'nothing' is not defined (mine.py, line 7)"),
    (["--mu", "constant", "--sigma", "constant"], "neither depends on phi"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input(flags, message, run_main, mine):
    status, out, err = run_main(CrossoverSettings, run, *flags, "--out", "new/deep")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("new").exists()
