"""The published values computed in two independent ways, the distance z, and the exit status."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import digamma, gammaln

import rgrad
from experiments.published import PublishedSettings, tables
from experiments.published import run as run_published
from experiments.published.rows import Claim, errors_of, row_of_mean, row_of_order, row_of_variance
from experiments.published.settings import LIMIT

ROOT = Path(__file__).parent.parent.parent
ROW = ("source", "quantity", "estimator", "parameter", "published", "published_error", "ours", "low", "high", "z")
CLAIM = partial(Claim, "a source", "a quantity", "an estimator", "a parameter")


@pytest.fixture
def run(run_main):
    """`run(*flags) -> (status, stdout, stderr)`, in an empty folder."""
    return partial(run_main, PublishedSettings, run_published)


@pytest.mark.parametrize("k", tables.MOHAMED["square"].ks)
def test_quadrature_agrees_with_the_closed_forms(k):
    family = tables.MOHAMED["square"]
    by_quadrature = tables.variances(partial(family.cost, k), partial(family.slope, k), mu=1.0)
    for estimator, closed in tables.mohamed_variances("square", k).items():
        assert by_quadrature[estimator] == pytest.approx(closed, rel=1e-8, abs=1e-8)


def test_the_table_of_gal_is_right_in_all_printed_digits():
    """The derivatives are with respect to sigma. For sigma^2 their variances would be a quarter of these."""
    costs = {
        "x + x^2": (lambda x: x + x**2, lambda x: 1 + 2 * x),
        "sin x": (np.sin, np.cos),
        "sin 10x": (lambda x: np.sin(10 * x), lambda x: 10 * np.cos(10 * x)),
    }
    for (text, parameter), printed in tables.GAL.items():
        found = tables.variances(*costs[text], mu=0.0)
        for estimator, digits in printed.items():
            assert abs(found[estimator][parameter] - float(digits)) <= tables.rounding(digits) + 1e-9


@pytest.mark.parametrize("first", tables.NAESSETH_SHAPES)
def test_the_gradient_of_the_elbo_is_that_of_minus_the_divergence(first):
    posterior = 1.0 + tables.naesseth_counts()
    assert (posterior[0], posterior.sum()) == (2, 200)

    def divergence(first):  # of Dirichlet(alpha) from the posterior
        alpha = np.concatenate([[first], posterior[1:]])
        normalisers = gammaln(alpha.sum()) - gammaln(posterior.sum()) + (gammaln(posterior) - gammaln(alpha)).sum()
        return normalisers + (alpha - posterior) @ (digamma(alpha) - digamma(alpha.sum()))

    h = 1e-5
    numerical = -(divergence(first + h) - divergence(first - h)) / (2 * h)
    assert tables.naesseth_gradient(first) == pytest.approx(numerical, abs=1e-6)


def test_rounding_is_half_a_unit_of_the_last_digit():
    assert [tables.rounding(text) for text in ("17", "0.5", "0.680", "0.0000465")] == [0, 0.05, 0.0005, 5e-8]


@pytest.fixture(scope="module")
def normal():
    """Moments of draws with mean 1 and variance 4."""
    return rgrad.measure(lambda key: 1 + 2 * jax.random.normal(key), jax.random.key(0), 1000)


def test_z_is_1_96_at_the_ends_of_the_interval(normal):
    for row_of, ours, (low, high) in (
        (row_of_mean, normal.mean, normal.interval()),
        (row_of_variance, normal.variance, normal.variance_interval()),
    ):
        row = row_of(CLAIM(float(low)), normal)
        assert tuple(row) == ROW
        assert (row["ours"], row["low"], row["high"]) == (ours, low, high)
        assert row["z"] == pytest.approx(1.96, abs=0.005)
        assert row_of(CLAIM(float(high)), normal)["z"] == pytest.approx(-1.96, abs=0.005)


def test_the_errors_of_the_source_count(normal):
    """Over 100 repetitions of a normal with variance 4: 0.2 for the mean, 4 sqrt(2 / 99) for the variance."""
    errors = errors_of(100, normal)
    assert errors == pytest.approx({"mean": 0.2, "variance": 4 * (2 / 99) ** 0.5}, rel=0.15)
    # If the source has as many repetitions as we have, its error equals ours, and z shrinks by sqrt(2).
    same = errors_of(1000, normal)
    for row_of, kind, value in ((row_of_mean, "mean", 1.2), (row_of_variance, "variance", 4.3)):
        alone, both = row_of(CLAIM(value), normal)["z"], row_of(CLAIM(value, same[kind]), normal)["z"]
        assert alone / both == pytest.approx(2**0.5, rel=0.03)


def test_a_variance_of_exactly_zero(normal):
    constant = rgrad.measure(lambda key: jax.numpy.ones(()), jax.random.key(0), 1000)
    assert row_of_variance(CLAIM(0.0), constant)["z"] == 0
    assert row_of_variance(CLAIM(0.0), normal)["z"] == np.inf
    assert not abs(row_of_variance(CLAIM(1.0), constant)["z"]) <= LIMIT


def test_only_a_reversed_order_contradicts_an_order(normal):
    smaller = rgrad.measure(lambda key: jax.random.normal(key), jax.random.key(1), 1000)
    assert row_of_order(CLAIM(1.0), normal, smaller)["z"] == 0
    reversed_ = row_of_order(CLAIM(1.0), smaller, normal)
    assert reversed_["z"] < -LIMIT
    assert reversed_["low"] < 0.25 < reversed_["high"]


def test_the_small_config_agrees(small_run):
    """The seed is fixed, so the result is always the same. The largest |z| is 3. With other random numbers (e.g. of
    another jax), 155 normal values would fail with probability 155 * 5.7e-7 = 9e-5."""
    status, out, err, folder = small_run("published")
    assert (status, err) == (0, "")
    assert "155 published values, 0 disagree" in out
    rows = json.loads((folder / "result.json").read_text())["rows"]
    assert {row["source"] for row in rows} == set(tables.SOURCES.values())
    assert all(tuple(row) == ROW for row in rows)
    # The error decreases significantly wherever the source says so.
    assert all(row["low"] > 1 for row in rows if row["quantity"].startswith("ratio"))


def test_a_wrong_published_value_is_exit_status_1(run, monkeypatch):
    """4.4 instead of 4 is about 20 standard errors of 100,000 estimates, so it is never missed. The others agree."""
    right = tables.GAL["x + x^2", "mu"]
    monkeypatch.setitem(tables.GAL, ("x + x^2", "mu"), {**right, "reparameterized": "4.400"})
    status, out, err = run("--sources", "gal", "--replicates", 100_000, "--out", "here")
    assert (status, err) == (1, "")
    assert "12 published values, 1 disagree" in out
    assert out.count("disagrees: Gal 2016") == 1
    assert {p.name for p in Path("here").iterdir()} == {"result.json", "table.csv", "figure.png", "figure.svg"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sources", "nowhere"], "nowhere"),
        (["--sources", "gal", "gal"], "has a duplicate"),
        (["--num-samples", "11"], "11"),
        (["--replicates", "10"], "--replicates: input should be greater than or equal to 1000, not 10"),
        (["--params", "loc=1"], "unknown flag --params"),
    ],
)
def test_bad_input(flags, message, run):
    status, out, err = run(*flags, "--out", "new")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []
