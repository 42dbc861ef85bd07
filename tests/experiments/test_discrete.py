"""The experiment on discrete gradients: its exact values, and its findings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.errors import UsageError
from experiments.discrete import DiscreteSettings
from experiments.discrete.study import exact_gradient, exact_loss, prepare, rows_of

KEY = jax.random.key(0)
SMALL = DiscreteSettings(
    estimators=("score_function+leave_one_out", "rebar+trained", "gumbel_softmax", "enumerated"),
    bits=2, targets=(0.45, 0.8), logit=1.0, num_samples=6, replicates=20_000, fits=8, steps=300, points=5, learning_rate=0.05,
)  # fmt: skip


def test_the_exact_gradient_is_that_of_the_exact_loss(x64):
    for target in (0.499, 0.8):
        slope = jax.grad(exact_loss)(jnp.full(3, 0.7), target)
        np.testing.assert_allclose(slope, exact_gradient(0.7, 3, np.array(target)), rtol=1e-12)


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
    for name, curve in curves.items():
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
        ({"num_samples": 1}, r"score_function\+leave_one_out with --num-samples 1 --bits 2: leave_one_out: n = 1"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(UsageError, match=message):
        prepare(SMALL.model_copy(update=change))


def test_the_largest_support_is_enumerated():
    settings = SMALL.model_copy(update={"bits": 16, "estimators": ("enumerated",), "replicates": 2})
    moments = partial(prepare(settings).measure, "enumerated", jnp.array([0.45]), 0.3)(KEY, replicates=2)
    np.testing.assert_allclose(moments.mean, exact_gradient(0.3, 16, np.array([0.45])), rtol=1e-4)
