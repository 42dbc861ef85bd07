"""`experiments.elbo`: its table against closed forms, exit status 1 for a wrong equation, and bad input."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import rgrad
from experiments.elbo import ElboSettings
from experiments.elbo import checks as elbo_checks
from experiments.elbo import run as run_elbo
from experiments.elbo import study as elbo_task
from experiments.elbo.targets import factor, gaussian, laplace, logistic

MINE = """
import jax, jax.numpy as jnp

def banana(z): return -(z[0]**2 + 4 * (z[1] - z[0]**2) ** 2)
def vector(z): return -z**2
def root(z): return jnp.sqrt(1.0 - jnp.sum(z**2))
def logarithm(z): return jnp.log(z).sum()
def raises(z): return z.nothing
def whole(z): return 1
number = 3.0
def off(f, q, key, n): return 1.02 * jax.vmap(f)(q.rsample(key, (n,)))
"""


@pytest.fixture
def run(run_main, tmp_path, monkeypatch):
    """`run(*flags) -> (status, stdout, stderr)`, in a folder that contains only mine.py."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return partial(run_main, ElboSettings, run_elbo)


SMALL = ("--dimensions", 2, "--estimators", "reparameterized/exact", "reparameterized/detached",
         "score_function+leave_one_out/detached", "--families", "--replicates", 1000, "--out", "here")  # fmt: skip


def test_the_variances_are_those_of_closed_forms():
    """The target is N(m, S) with P = S^-1, and q = N(mu, C C') is near it. The gradient for mu is from n samples.

    With reparameterized, its variance is tr(P C C' P) / n. With sticking the landing, it is that of (P - (C C')^-1) C
    eps. The measured values are within 6 standard errors of a thousand pairs (1e-8), which is 6 * 4 % of the value.
    """
    settings = ElboSettings(dimensions=(2,), replicates=1000)
    ((target, case),) = elbo_task.location_scale_cases(settings)
    ways = {name: elbo_task.load_way(name) for name in ("reparameterized/exact", "reparameterized/detached")}
    rows = elbo_task.measured_rows(case, ways, settings, jax.random.key(0), lambda done: None)
    assert {r["part"] for r in rows} == {"variance", "mean"}
    assert all(r["holds"] for r in rows if r["part"] == "mean")
    for place, distance in zip(case.places, case.distances, strict=True):
        C = np.asarray(factor(place))
        P = np.linalg.inv(target.C @ target.C.T)
        for entropy, A in (("exact", P @ C), ("detached", (P - np.linalg.inv(C @ C.T)) @ C)):
            (found,) = (r for r in rows if r["part"] == "variance" and r["quantity"] == "mu"
                        and (r["distance"], r["estimator"], r["entropy"]) == (distance, "reparameterized", entropy))  # fmt: skip
            error = (found["high"] - found["value"]) / 1.96
            assert abs(found["value"] - np.trace(A @ A.T) / 10) < 6 * error
            assert error < 0.05 * found["value"]
    # The findings of the README: sticking the landing has less noise near the target, and more if q is narrow and far
    # away.
    quiet = {
        (r["distance"], r["entropy"]): r["value"] for r in rows if (r["part"], r["quantity"]) == ("variance", "mu")
    }
    assert quiet[0.1, "detached"] < quiet[0.1, "exact"] / 5
    assert quiet[1.0, "detached"] > quiet[1.0, "exact"] * 5


def test_the_expectation_of_the_gaussian_target_is_that_of_its_log_density(x64):
    """Against Gauss-Hermite quadrature in two dimensions."""
    target = gaussian(2, np.random.default_rng(3))
    mu, C = np.array([0.3, -0.2]), np.array([[0.5, 0.1], [0.7, 0.9]])
    x, w = np.polynomial.hermite_e.hermegauss(5)
    eps, weight = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2), np.outer(w, w).ravel() / (2 * np.pi)
    by_quadrature = weight @ np.asarray(jax.vmap(target.log_g)(jnp.asarray(mu + eps @ C.T)))
    np.testing.assert_allclose(target.expected(mu, C, 1.0), by_quadrature, rtol=1e-12)
    law = stats.multivariate_normal(target.mu, target.C @ target.C.T)
    np.testing.assert_allclose(target.log_g(jnp.asarray(mu)), law.logpdf(mu), rtol=1e-12)


def test_laplace_finds_a_gaussian_and_the_mode_of_the_logistic_posterior(x64):
    target = gaussian(3, np.random.default_rng(0))
    mode, C = laplace(target.log_g, 3, "here")
    np.testing.assert_allclose(mode, target.mu, atol=1e-4)
    np.testing.assert_allclose(C, target.C, atol=1e-6)
    posterior = logistic(3, np.random.default_rng(0))
    assert np.abs(jax.grad(posterior.log_g)(jnp.asarray(posterior.mu))).max() < 1e-3
    flat = laplace(lambda z: -jnp.abs(z).sum(), 2, "here")  # no curvature
    np.testing.assert_array_equal(flat[1], np.eye(2))


def test_wrong_equations_are_detected(monkeypatch):
    """A density off by 2e-5, an exact entropy off by 0.3, and a chain rule with C^-1 instead of C^-T, all at once.

    Exactly the rows that they affect are reported.
    """
    log_q, elbo, sides = elbo_checks._independent_log_q, rgrad.elbo, elbo_checks._library_sides

    def wrong_sides(*a):
        honest = sides(*a)

        def wrong(mu, C, *others):
            found, inverse = honest(mu, C, *others), jnp.linalg.inv(C)
            return found | {"exact": (found["exact"][0], found["exact"][1] + inverse - inverse.T)}

        return wrong

    monkeypatch.setattr(elbo_checks, "_independent_log_q", lambda *a: log_q(*a) + 2e-5)
    monkeypatch.setattr(elbo_checks, "_library_sides", wrong_sides)
    wrong_elbo = lambda *a, entropy: elbo(*a, entropy=entropy) + (0.3 if entropy == "exact" else 0.0)
    monkeypatch.setattr(rgrad, "elbo", wrong_elbo)
    rows = list(elbo_checks.check_rows("gaussian", gaussian(2, np.random.default_rng(0)), "normal", 0))
    assert {r["quantity"] for r in rows if not r["holds"]} == {
        "(4) log q(z), location_scale", "(4) log q(z), NumPyro", "(6h) E_q log g/q", "(6h) elbo, closed form",
        "(7c) |d/d C|", "(6a) = (6h) |gradient|",
    }  # fmt: skip


def test_the_exit_status_is_1_if_an_estimator_is_off(run):
    """An estimator whose mean is off by 2 %: more than 6 standard errors of 2,000 estimates, about 0.05 % each."""
    status, out, err = run("--estimators", "mine:off/detached", "--families", "--dimensions", 2, "--distances", 0.5,
                           "--num-samples", 200, "--out", "here")  # fmt: skip
    assert (status, err) == (1, "")
    assert "does not hold: mean, normal, D = 2, " in out
    rows = json.loads(Path("here/result.json").read_text())["rows"]
    assert {r["part"] for r in rows} == {"equation", "variance", "mean"}
    assert len({tuple(r) for r in rows}) == 1
    assert all(r["holds"] for r in rows if r["part"] == "equation")


@pytest.mark.long
def test_a_users_target_of_any_phi(run):
    flags = ("--target", "mine.py:banana", "--phi", "student_t", "--distances", 0.3, "--replicates", 200)
    status, _, err = run(*SMALL, *flags)
    assert (status, err) == (0, "")
    rows = json.loads(Path("here/result.json").read_text())["rows"]
    assert {r["reference"] is None for r in rows if r["part"] == "mean"} == {True}
    assert {r["q"] for r in rows if r["part"] == "equation"} == {"student_t, general C", "student_t, cholesky C"}


def test_what_has_no_rule_is_left_out_of_a_family():
    case = elbo_task.family_case("beta", ElboSettings())
    ways = {name: elbo_task.load_way(name) for name in ("generalized/sampled", "measure_valued/exact")}
    kept, left_out = elbo_task.ways_that_apply(
        case, ways | {"enumerated/exact": elbo_task.load_way("enumerated/exact")}, 4, "--family-estimators"
    )
    assert "generalized/sampled" in kept
    assert "enumerated" in left_out["enumerated/exact"]


BAD = [
    (["--target", "gausian"], "--target gausian: unknown name; did you mean 'gaussian'?"),
    (["--target", "mine:number"], "expected a function, z of shape (D,) -> log density, got float"),
    (["--target", "mine:vector"], "--target mine:vector with D = 2: expected one float, got float32 of shape (2,)"),
    (["--target", "mine:whole"], "expected one float, got int32 of shape ()"),
    (["--target", "mine:raises"], "AttributeError"),
    (["--target", "mine:logarithm"], "is nan or infinite at z = 0; make it finite on all of R^D"),
    (["--target", "mine:root"], "the log density is nan or infinite for "),
    (["--phi", "cauchy"], "--phi"),
    (["--dimensions", "0"], "--dimensions: input should be greater than or equal to 1, not 0"),
    (["--dimensions", "65"], "--dimensions: input should be less than or equal to 64, not 65"),
    (["--dimensions", "2", "2"], "has a duplicate"),
    (["--distances", "-1"], "--distances: input should be greater than or equal to 0"),
    (["--distances", "nan"], "--distances: input should be a finite number"),
    (["--estimators", "reparameterized"], "write ESTIMATOR/ENTROPY, where ENTROPY is sampled, exact or detached"),
    (["--estimators", "reparameterized/exakt"], "did you mean 'exact'?"),
    (["--estimators", "reparametrized/exact"], "--estimators reparametrized: unknown name; did you mean 'reparameterized'?"),
    (["--estimators", "rejection/exact"], "rejection has no sampler for MultivariateNormal"),
    (["--estimators", "mine:number/exact"], "expected a function (f, q, key, n) -> terms, got float"),
    (["--families", "poisson"], "poisson"),
    (["--family-estimators", "generalised/exact"], "--family-estimators generalised: unknown name; did you mean 'generalized'?"),
    (["--families", "gamma", "--family-estimators", "enumerated/exact"], "--family-estimators: no estimator applies: enumerated"),
    (["--family-dimension", "0"], "--family-dimension: input should be greater than or equal to 1"),
    (["--num-samples", "0"], "--num-samples: input should be greater than or equal to 1"),
    (["--num-samples", "1"], "leave_one_out: n = 1"),
    (["--replicates", "10"], "--replicates: input should be greater than or equal to 100"),
    (["--float-width", "16"], "use 32 or 64"),
    (["--out", "mine.py/x"], "--out mine.py/x: Not a directory"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input(flags, message, run, tmp_path):
    defaults = {"--dimensions": ["2"], "--families": [], "--replicates": ["100"], "--out": ["new/deep"]}
    kept = [a for flag, values in defaults.items() if flag not in flags for a in (flag, *values)]
    status, out, err = run(*kept, *flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["mine.py"]
