"""The experiment on discrete gradients: its exact values, and its findings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rgrad
from experiments.common.errors import UsageError
from experiments.discrete import DiscreteSettings
from experiments.discrete.problems import Bits, Categories
from experiments.discrete.study import prepare, rows_of

KEY = jax.random.key(0)
SMALL = DiscreteSettings(
    problems=("bits",), estimators=("score_function+leave_one_out", "rebar+trained", "gumbel_softmax", "enumerated"),
    bits=2, targets=(0.45, 0.8), logit=1.0, num_samples=6, replicates=20_000, fits=8, steps=300, points=5, learning_rate=0.05,
)  # fmt: skip


@pytest.mark.parametrize("problem", [Bits(3, 1), Categories(5, 1)], ids=lambda problem: problem.name)
def test_the_exact_loss_gradient_and_minimum(problem, x64):
    """Those of an explicit sum over all values, in 64 bits."""
    logits = problem.start(0.7)
    sums = lambda a, t: rgrad.expect(partial(problem.objective, t), problem.distribution(a), KEY, 1, rgrad.enumerated)
    for target in (0.499, 0.8):
        loss, slope = jax.value_and_grad(sums)(logits, target)
        np.testing.assert_allclose(problem.exact_loss(logits, target), loss, rtol=1e-12)
        np.testing.assert_allclose(slope[0], problem.exact_gradient(0.7, np.array([target])), rtol=1e-12)
        points = np.eye(5) if problem.name == "categories" else np.array([[target > 0.5] * 3])
        least = min(float(problem.objective(target, jnp.asarray(x, float))) for x in points)
        assert problem.least(target) == pytest.approx(least)


@pytest.mark.long
def test_categories_at_equal_evaluations():
    """20 categories, 12 evaluations: the means are right within 6 standard errors, and the evaluations are equal, apart from
    the exact sum. Groups without replacement are less noisy than leave-one-out, outside both intervals at 95 %, which are
    at least 10 standard errors apart. The others are left out."""
    settings = DiscreteSettings(
        problems=("categories",), replicates=20_000, targets=(0.45,), fits=2, steps=2, points=1, logit=1.0,
        estimators=("score_function+leave_one_out", "unordered", "unordered+6", "enumerated", "reinmax"),
    )  # fmt: skip
    rows = {row["estimator"]: row for row in rows_of(prepare(settings), settings, KEY, lambda done: None)[0]}
    evaluations = {name: row["evaluations"] for name, row in rows.items()}
    assert evaluations == dict.fromkeys(rows, 12) | {"enumerated": 20}
    for row in rows.values():
        assert abs(row["bias"]) < 6 * row["standard_error"] + 1e-7, row  # reinmax too, as f is quadratic
    assert rows["enumerated"]["variance"] < 1e-12
    assert rows["unordered+6"]["variance_high"] < 0.8 * rows["score_function+leave_one_out"]["variance_low"]


@pytest.mark.long
def test_what_the_table_shows():
    """Means of 20,000 gradients are within 6 standard errors of the exact one if the estimator is unbiased (1e-8 for all),
    and more than 20 off if it is biased. Training finds the right bits, except with the biased estimator."""
    rows, curves = rows_of(prepare(SMALL), SMALL, KEY, lambda done: None)
    assert [row["estimator"] for row in rows] == [name for name in SMALL.estimators for _ in SMALL.targets]
    for row in rows:
        off = abs(row["bias"]) / (row["standard_error"] + 1e-8)  # 32-bit rounding
        assert off > 20 if row["biased"] else off < 6, row
        assert row["bias"] == pytest.approx(row["mean"] - row["exact_mean"], abs=1e-12)
        assert row["biased"] == (row["estimator"] in ("gumbel_softmax", "straight_through"))
    assert {row["estimator"]: row["evaluations"] for row in rows} == {
        "score_function+leave_one_out": 6, "rebar+trained": 18, "gumbel_softmax": 6, "enumerated": 4,
    }  # fmt: skip
    for name, curve in curves["bits"].items():
        assert curve.shape == (2, 8, 6), name
    final = {(row["estimator"], row["target"]): row["excess_loss"] for row in rows}
    for target in SMALL.targets:
        assert final["enumerated", target] < final["score_function+leave_one_out", target] + 1e-6
        assert final["score_function+leave_one_out", target] < 0.1 * abs(1 - 2 * target)


@pytest.mark.long
def test_the_state_of_rebar_is_learned():
    """Training eta and the temperature on the variance gives a lower loss than their defaults, by more than 6 standard
    errors of 16 runs each."""
    change = {
        "estimators": ("rebar", "rebar+trained"),
        "targets": (0.45,),
        "logit": 0.0,
        "bits": 6,
        "fits": 16,
        "steps": 400,
    }
    settings = SMALL.model_copy(update=change)
    plain, trained = rows_of(prepare(settings), settings, KEY, lambda done: None)[0]
    error = np.hypot(plain["excess_loss_error"], trained["excess_loss_error"])
    assert plain["excess_loss"] - trained["excess_loss"] > 6 * error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimators": ("armm",)}, r"--estimators armm: unknown name; did you mean 'arm'\?"),
        ({"estimators": ("arm",), "problems": ("categories",)}, "--estimators arm: it has no rule for categories"),
        (
            {"problems": ("categories",), "evaluations": 1},
            r"leave_one_out with --evaluations 1 --classes 20: leave_one_out: n = 1",
        ),
        ({"num_samples": 1}, r"score_function\+leave_one_out with --num-samples 1 --bits 2: leave_one_out: n = 1"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(UsageError, match=message):
        prepare(SMALL.model_copy(update=change))


def test_the_largest_support_is_enumerated():
    settings = SMALL.model_copy(update={"bits": 16, "estimators": ("enumerated",), "replicates": 2})
    (task,) = prepare(settings)
    moments = task.measure("enumerated", jnp.array([0.45]), 0.3, KEY, 2)
    np.testing.assert_allclose(moments.mean, task.problem.exact_gradient(0.3, np.array([0.45])), rtol=1e-4)
