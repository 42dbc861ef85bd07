"""Bayesian logistic regression: gradients, optimum and posterior against quadrature, minibatches, fits that stop, bad input."""

import csv
import itertools
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import rgrad
from experiments.logistic import LogisticSettings
from experiments.logistic import run as run_logistic
from experiments.logistic.data import Table, load_table, split
from experiments.logistic.model import FAMILIES, WAYS, LogisticWay, Model, elbo_of, standard_deviations
from experiments.logistic.task import LogisticPlan, run_fits
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
X = np.array([-1.5, -1.0, -0.3, 0.4, 0.9, 1.7])
Y = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
STANDARD = np.stack([np.ones(6), (X - X.mean()) / X.std()], 1)
AT = {"loc": np.array([0.3, -0.2]), "log_diagonal": np.array([-0.4, 0.1]), "below": np.array([[0.0, 0.0], [0.5, 0.0]])}
SMALL = LogisticPlan(rates=(0.05,), seeds=2, steps=12, samples=2, points=4, batch=None)


@pytest.fixture
def run(run_main):
    """`run(*flags) -> (status, stdout, stderr)` on small.csv, with six rows and one column."""
    lines = [f"{x},{'yes' if y else 'no'}\n" for x, y in zip(X, Y, strict=True)]
    Path("small.csv").write_text("size,answer\n" + "".join(lines))
    return partial(run_main, LogisticSettings, run_logistic)


def model():
    return Model(jnp.asarray(STANDARD, float), jnp.asarray(Y, float))


def log_g(w):
    """The six rows, written out; w of shape (..., 2)."""
    logits = w @ STANDARD.T
    return (Y * logits - jnp.logaddexp(0.0, logits)).sum(-1) - (w**2).sum(-1) / 2 - jnp.log(2 * jnp.pi)


def exact_elbo(p):
    """The ELBO from 40 x 40 Gauss-Hermite nodes and the entropy of a normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    eps = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1)
    w = np.outer(weights, weights) / weights.sum() ** 2
    factor = jnp.diag(jnp.exp(p["log_diagonal"])) + (jnp.tril(p["below"], -1) if "below" in p else 0.0)
    return jnp.sum(w * log_g(p["loc"] + eps @ factor.T)) + p["log_diagonal"].sum() + 1 + jnp.log(2 * jnp.pi)


def of_family(family):
    return {name: AT[name] for name in FAMILIES[family].start(2)}


PAIRS = [("mean_field", "reparameterized"), ("full", "reparameterized"), ("full", "sticking_the_landing"),
         ("full", "score_function+leave_one_out")]  # fmt: skip


@pytest.mark.long
def test_every_gradient_of_a_minibatch_is_unbiased(x64):
    """From minibatches of 3 of 6 rows, against quadrature. False failures: below 1e-6. Catches a bias of 0.25 in any
    coordinate. The gradients are up to 2.4, and without its factor 2 a minibatch would be off by up to 1.1."""
    truth = {f"{family} {way}": jax.grad(exact_elbo)(of_family(family)) for family, way in PAIRS}
    of_way = lambda p, family, way, key: elbo_of(model(), family, WAYS[way], p, key, 8, batch=3)
    points = {family: jax.tree.map(jnp.asarray, of_family(family)) for family in FAMILIES}
    gradient = lambda family, way, key: jax.grad(of_way)(points[family], family, way, key)
    every = lambda key: {f"{family} {way}": gradient(family, way, key) for family, way in PAIRS}
    assert_unbiased(every, truth, smallest_bias=0.25, replicates=40_000)


def test_minibatches_by_enumeration(x64):
    """The mean over all 20 sets of 3 rows equals that of all rows, up to rounding. Drawn minibatches have different rows."""
    w = jnp.array([0.7, -1.1])
    each = [model().log_g_of(jnp.array(rows), w) for rows in itertools.combinations(range(6), 3)]
    assert np.mean(each) == pytest.approx(float(model().log_g(w)), rel=1e-12)
    assert model().log_g(w) == pytest.approx(float(log_g(w)), rel=1e-12)
    rows = jax.vmap(partial(model().draw_rows, 6))(jax.random.split(KEY, 10))
    assert np.sort(rows, axis=1).tolist() == [list(range(6))] * 10


@pytest.mark.long
def test_the_command_finds_the_optimum_and_the_posterior(run):
    """A table of the user with six rows and two weights, against quadrature. The ELBO is within 0.02 nats of the optimum
    (standard error below 0.003), and the means of NUTS are within 6 standard errors (false failures below 1e-6)."""
    flags = ("--data", "small.csv", "--column", "answer", "--held-out", 0, "--families", "full", "--estimators",
             "sticking_the_landing", "--learning-rates", 0.1, "--steps", 400, "--seeds", 2, "--points", 4, "--draws", 500, "--chains", 4)  # fmt: skip
    status, out, err = run(*flags, "--out", "a")
    assert (status, err) == (0, "")
    assert "6 rows to fit, 0 held out; 2 weights with the intercept" in out
    result = json.loads(Path("a/result.json").read_text())["rows"]
    posterior = {row["weight"]: row for row in csv.DictReader(Path("a/posterior.csv").open())}
    with jax.enable_x64(True):
        for row in result:
            flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, of_family(row["family"])))
            loss = jax.jit(jax.value_and_grad(lambda v: -exact_elbo(unravel(v))))
            least = minimize(lambda v: tuple(map(np.asarray, loss(v))), flat, jac=True)
            assert row["elbo"] == pytest.approx(-least.fun, abs=0.02)
            sd = standard_deviations(unravel(least.x))
            for i, name in enumerate(("intercept", "size")):
                assert float(posterior[name][f"{row['family']}_mean"]) == pytest.approx(
                    float(unravel(least.x)["loc"][i]), abs=0.05
                )
                assert float(posterior[name][f"{row['family']}_sd"]) == pytest.approx(sd[i], rel=0.05)
    grid = np.stack(np.meshgrid(*[np.linspace(-6, 6, 601)] * 2, indexing="ij"), -1)
    density = np.exp(np.asarray(log_g(grid), float))
    density /= density.sum()
    for i, name in enumerate(("intercept", "size")):
        mean = (density * grid[..., i]).sum()
        sd = np.sqrt((density * (grid[..., i] - mean) ** 2).sum())
        error = sd / float(posterior[name]["effective"]) ** 0.5
        assert abs(float(posterior[name]["nuts_mean"]) - mean) < 6 * error < 0.3 * sd
        assert float(posterior[name]["nuts_sd"]) == pytest.approx(sd, rel=0.15)
        assert float(posterior[name]["r_hat"]) < 1.05
    assert result[0]["nuts_distance"] < 0.3


def test_a_nan_is_refused_and_the_last_good_state_kept():
    """The target is nan beyond loc[1] = 0.22. With the larger rate, the steps of Adam are long enough to reach it."""

    def estimator(f, q, key, n):
        return jnp.where(q.mean[1] > 0.22, jnp.nan, rgrad.reparameterized(f, q, key, n))

    plan = SMALL._replace(rates=(1e-4, 0.1))
    runs = run_fits(model(), "mean_field", LogisticWay(estimator, "exact"), plan, KEY, lambda steps: None)
    assert (runs.stopped_at[0] == -1).all()
    assert (runs.stopped_at[1] > 0).all()
    last = runs.params["loc"][1, :, 1]
    assert ((last > 0.1) & (last <= 0.22)).all()  # the state one step before
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(runs.path))
    assert runs.steps.tolist() == [3, 6, 9, 12]
    assert (np.diff(runs.seconds) > 0).all()


def test_a_learning_rate_that_diverges(run):
    flags = ("--data", "small.csv", "--column", "answer", "--held-out", 0, "--families", "mean_field", "--estimators",
             "reparameterized", "--learning-rates", 1e4, "--steps", 12, "--seeds", 2, "--points", 4, "--no-nuts")  # fmt: skip
    status, out, err = run(*flags, "--out", "a")
    assert status == 2
    said = "rate 10000: 2 of 2 fits had an ELBO or a gradient that is not finite, the first at step 1"
    assert said in out
    assert err.startswith("error: ")
    assert said in err
    assert "use smaller --learning-rates" in err
    assert err.count("\n") == 1
    row = json.loads(Path("a/result.json").read_text())["rows"][0]
    assert (row["stopped"], row["first_stop"]) == (2, 1)
    assert np.isfinite(row["elbo"])
    states = np.load("a/states.npz")
    assert np.all(states["all/mean_field/reparameterized/loc"] == 0)  # the start, because only one step was taken
    assert "nan" not in Path("a/curves.csv").read_text()


def test_split_and_standardise():
    table = load_table(None, None)
    assert table.x.shape == (569, 30)
    parts = split(table, 0.2, seed=3)
    assert (len(parts.y), len(parts.held_y)) == (455, 114)
    np.testing.assert_allclose(parts.x[:, 1:].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(parts.x[:, 1:].std(0), 1)
    assert (np.r_[parts.x, parts.held_x][:, 0] == 1).all()
    again, other = split(table, 0.2, seed=3), split(table, 0.2, seed=4)
    assert np.array_equal(parts.held_x, again.held_x)
    assert not np.array_equal(parts.held_x, other.held_x)
    # Each row is in exactly one of the two parts. Without a split, the rows are those of the standardised table.
    rows = lambda x, y: sorted(map(tuple, np.c_[x, y].tolist()))
    numbered = Table(np.arange(10.0)[:, None], np.arange(10), ["x"], "ten")
    kept = split(numbered, 0.3, 0)
    assert sorted([*kept.y, *kept.held_y]) == list(range(10))
    whole = split(table, 0.0, seed=3)
    assert rows(whole.x[:, 1:], whole.y) == rows((table.x - table.x.mean(0)) / table.x.std(0), table.y)


BAD = [
    (["--held-out", "1"], "--held-out: input should be less than 1"),
    (["--held-out", "-0.1"], "--held-out: input should be greater than or equal to 0"),
    (["--held-out", "0.0001"], "--held-out 0.0001: that is 0 of 569 rows"),
    (["--held-out", "0.999"], "that is 568 of 569 rows"),
    (["--families", "diagonal"], "--families"),
    (["--families"], "--families: nothing is given"),
    (["--estimators", "reparametrized"], "did you mean 'reparameterized'?"),
    (["--estimators", "nowhere:estimator"], "no module 'nowhere'"),
    (["--estimators", "score_function", "score_function"], "has a duplicate"),
    (
        ["--num-samples", "1"],
        "score_function+leave_one_out with --num-samples 1: leave_one_out: n = 1 leaves no other sample",
    ),
    (["--num-samples", "0"], "--num-samples: input should be greater than or equal to 1"),
    (["--learning-rates", "0"], "--learning-rates: input should be greater than 0"),
    (["--learning-rates", "inf"], "--learning-rates: input should be a finite number"),
    (["--steps", "0"], "--steps: input should be greater than or equal to 1"),
    (["--batch", "0"], "--batch: input should be greater than or equal to 1"),
    (["--batch", "456"], "--batch 456: there are only 455 rows to fit"),
    (["--batch", "ten"], "--batch: 'ten' cannot be parsed"),
    (["--seeds", "1"], "--seeds: input should be greater than or equal to 2"),
    (["--points", "0"], "--points: input should be greater than or equal to 1"),
    (["--final-num-samples", "1"], "--final-num-samples: input should be greater than or equal to 2"),
    (["--chains", "1"], "--chains: input should be greater than or equal to 2"),
    (["--draws", "3"], "--draws: input should be greater than or equal to 4"),
    (["--nut"], "unknown flag --nut; did you mean '--nuts'?"),
    (["--column", "answer"], "--column answer: --data is missing"),
    (["--data", "no.csv", "--column", "y"], "--data no.csv: no such file or directory"),
    (["--data", ".", "--column", "y"], "--data .: is a directory"),
    (["--data", "small.csv"], "--column: the target is not named; give one (there are: answer, size)"),
    (["--data", "small.csv", "--column", "anser"], "did you mean 'answer'?"),
    (["--data", "small.csv", "--column", "size"], "--column size: it has 6 different values; give a target with two"),
    (["--data", "words.csv", "--column", "y"], "could not convert string to float: 'a'"),
    (["--data", "nan.csv", "--column", "y"], "row 2, column 'x' is nan"),
    (["--data", "same.csv", "--column", "y"], "column 'x' has one value in all"),
    (["--data", "ragged.csv", "--column", "y"], "line 3 has 1 cell, not 2"),
    (["--data", "empty.csv", "--column", "y"], "--data empty.csv: it is empty"),
    (["--data", "one.csv", "--column", "y"], "expected a line of names, at least two columns and two rows"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input(flags, message, run):
    for name, text in (("words.csv", "x,y\na,0\nb,1\n"), ("nan.csv", "x,y\n1,0\nnan,1\n3,0\n"), ("empty.csv", ""),
                       ("same.csv", "x,y\n1,0\n1,1\n1,0\n"), ("ragged.csv", "x,y\n1,0\n2\n"), ("one.csv", "y\n0\n1\n")):  # fmt: skip
        Path(name).write_text(text)
    status, out, err = run("--out", "new/deep", *flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("new").exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_default_run_meets_its_limits(run):
    """The default command: ELBOs, accuracy and means against NUTS on all 569 rows. The standard errors of the ELBOs are
    below a sixth of their distance from the limits, so false failures have a probability below 1e-6."""
    status, out, err = run("--out", "a")
    assert (status, err) == (0, "")
    assert "FAILS" not in out
    rows = json.loads(Path("a/result.json").read_text())["rows"]
    final = {r["family"]: r for r in rows if r["data"] == "all"}
    assert -67.7 <= final["mean_field"]["elbo"] <= -67.46 + 0.1
    assert -55.8 <= final["full"]["elbo"] <= -55.47 + 0.1
    assert all(r["accuracy"] > 0.98 and r["rows"] == 569 for r in final.values())
    assert final["full"]["nuts_distance"] <= 0.15
    elbo = {
        (r["family"], r["estimator"]): (r["elbo_low"], r["elbo_high"])
        for r in rows
        if r["data"] != "all" and r["chosen"]
    }
    for family in FAMILIES:
        for better, worse in itertools.pairwise(("reparameterized", "score_function+leave_one_out", "score_function")):
            assert elbo[family, better][0] > elbo[family, worse][1]
    assert all(
        -0.15 < r["held_out_log_likelihood"] < 0 for r in rows if "score" not in r["estimator"] and r["data"] != "all"
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_minibatches_reach_the_optimum(run):
    """`--batch 64` is within half a nat of the mean-field optimum. A wrong scale would fail the limits."""
    flags = ("--batch", 64, "--held-out", 0, "--families", "mean_field", "--estimators", "sticking_the_landing",
             "--learning-rates", 0.03, "--steps", 6_000, "--no-nuts")  # fmt: skip
    assert run(*flags, "--out", "a")[0] == 0
    row = json.loads(Path("a/result.json").read_text())["rows"][0]
    assert row["elbo"] == pytest.approx(-67.46, abs=0.5)
