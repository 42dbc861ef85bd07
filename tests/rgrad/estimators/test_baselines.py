"""Baselines add no bias, by enumeration of every tuple of samples. Baselines that would add bias are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from rgrad.tracing.independence import shown_independent
from tests.enumeration import LOGITS, Given, expectation

KEY = jax.random.key(0)


def f(logits, x):
    """Also depends on the parameters."""
    return jnp.array([1.0, -2.0, 3.5])[x] + logits[0] ** 2 * x


def truth(logits):
    return jnp.sum(jax.nn.softmax(logits) * jax.vmap(partial(f, logits))(jnp.arange(3)))


def loss(logits, samples, baseline):
    estimator = partial(rgrad.score_function, baseline=baseline)
    return rgrad.expect(partial(f, logits), Given(logits, samples), KEY, len(samples), estimator)


def next_ones(values):
    return jnp.roll(values, 1) ** 2


BASELINES = {
    "none": lambda logits: 0.0,
    "number": lambda logits: 1.7,
    "traced number": lambda logits: jnp.sum(logits),
    "leave one out": lambda logits: rgrad.leave_one_out,
    "function": lambda logits: next_ones,
    "function that closes over what is traced": lambda logits: lambda v: rgrad.leave_one_out(v) * logits[1],
    "moving average": lambda logits: rgrad.moving_average(0.5).update(jnp.array([1.0, 2.0])),
}


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("baseline", BASELINES)
def test_no_bias_by_enumeration(baseline, n, x64):
    """Exact to 1e-10, which catches any bias. (For the plain mean it would be 1/n of the gradient.)"""
    logits = jnp.asarray(LOGITS)
    for derivative in (jax.grad, jax.hessian):
        estimate = derivative(lambda p, s: loss(p, s, BASELINES[baseline](p)))
        found = expectation(lambda samples: estimate(logits, samples), n)
        np.testing.assert_allclose(found, jax.jit(derivative(truth))(logits), atol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_moving_average_over_three_calls_by_enumeration(decay, x64):
    """All 729 sequences of three calls with two samples, where each call passes on the state. Unbiased to 1e-10."""
    logits = jnp.asarray(LOGITS)

    def calls(samples):
        average, gradients = rgrad.moving_average(decay), []
        for two in samples.reshape(3, 2):
            value, gradient = jax.value_and_grad(loss)(logits, two, average)
            gradients.append(gradient)
            average = average.update(value)
        return jnp.stack(gradients)

    np.testing.assert_allclose(expectation(calls, 6), jnp.stack([jax.jit(jax.grad(truth))(logits)] * 3), atol=1e-10)


def test_planted_an_average_updated_before_it_is_read_is_biased(x64):
    logits = jnp.asarray(LOGITS)

    def call(samples):
        average = rgrad.moving_average(0.5).update(jax.vmap(partial(f, logits))(samples))
        return jax.grad(loss)(logits, samples, average)

    assert np.abs(expectation(call, 2) - jax.jit(jax.grad(truth))(logits)).max() > 0.1


def test_moving_average_reads_the_weighted_mean_of_what_it_saw():
    average = rgrad.moving_average(0.9)
    assert average.value == 0.0
    seen = [4.0, -1.0, 2.5]
    for value in seen:
        average = average.update(value)
    weights = 0.9 ** np.arange(3)[::-1]
    assert average.value == pytest.approx(np.average(seen, weights=weights), rel=1e-6)
    with pytest.raises(ValueError, match="decay = 1"):
        rgrad.moving_average(1.0)


def test_moving_average_has_no_gradient_and_goes_through_scan():
    def step(average, key):
        return average.update(jax.random.normal(key) + 5.0), average.value

    last, seen = jax.lax.scan(step, rgrad.moving_average(0.9), jax.random.split(KEY, 200))
    assert seen[0] == 0.0
    assert 4.0 < last.value < 6.0
    assert jax.grad(lambda t: rgrad.moving_average().update(t).value)(3.0) == 0.0


REFUSED = {
    "the mean": jnp.mean,
    "the maximum": lambda v: jnp.full_like(v, v.max()),
    "the median": jnp.median,
    "itself": lambda v: v,
    "partly": lambda v: jnp.roll(v, 1) + 0.001 * v,
    "only the last": lambda v: rgrad.leave_one_out(v).at[-1].add(v[-1]),
    "the mean without a derivative": lambda v: jax.lax.stop_gradient(v.mean()),
    "the sign": lambda v: 3 * jnp.sign(v - 4.5),
    "a threshold": lambda v: jnp.where(v > 4, 6.0, 1.0),
    "the rank": lambda v: jnp.argsort(jnp.argsort(v)).astype(float),
    "rounded": jnp.round,
    "the second value": lambda v: v[1],
}
DERANGED = np.roll(np.arange(1000), 7)
HONEST = {
    "a matrix without a diagonal": lambda v: jnp.asarray(1 - np.eye(len(v))) @ v,
    "a permutation without a fixed point": lambda v: (
        v[DERANGED[: len(v)] % len(v)] if len(v) == 1000 else jnp.roll(v, 3)
    ),
    "the geometric mean of the others": lambda v: jnp.exp((jnp.log(v).sum() - jnp.log(v)) / (len(v) - 1)),
    "the largest of the others": lambda v: jnp.where(jnp.eye(len(v), dtype=bool), -jnp.inf, v).max(1),
    "their variance": lambda v: ((v**2).sum() - v**2) / (len(v) - 1) - ((v.sum() - v) / (len(v) - 1)) ** 2,
    "noise of its own": lambda v: jax.random.normal(KEY, v.shape),
}


@pytest.mark.parametrize("n", [2, 5, 1000])
@pytest.mark.parametrize("baseline", REFUSED)
def test_a_baseline_that_uses_its_own_sample_is_refused(baseline, n):
    values = jnp.arange(float(n))
    for wrap in (lambda g: g, jax.jit):
        with pytest.raises(ValueError, match=r"uses value \d+ itself .* rgrad.leave_one_out"):
            wrap(lambda v: rgrad.surrogate(v, v, REFUSED[baseline]))(values)


@pytest.mark.parametrize("n", [5, 1000])
@pytest.mark.parametrize("baseline", HONEST)
def test_an_honest_baseline_is_accepted(baseline, n):
    values = jnp.arange(1.0, n + 1)
    for wrap in (lambda g: g, jax.jit):
        wrap(lambda v: rgrad.surrogate(v, v, HONEST[baseline]))(values)


FLAGS = {
    "a warm-up": lambda step: lambda v: jnp.where(step < 10, 0.0, v.mean()),
    "a warm-up by a branch": lambda step: (
        lambda v: jax.lax.cond(step < 10, jnp.zeros_like, lambda v: v - v + v.mean(), v)
    ),
    "a flag": lambda step: lambda v: jnp.where(step == 20, v.mean(), 0.0),
    "a clip": lambda step: lambda v: jnp.clip(v.mean(), 2000.0, 3000.0) + 0 * step,
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_baseline_that_uses_its_own_sample_only_sometimes_is_refused(name):
    with pytest.raises(ValueError, match="uses value 0 itself"):
        jax.jit(lambda v, step: rgrad.surrogate(v, v, FLAGS[name](step)))(jnp.arange(4.0), 20)


def test_what_tracing_does_not_detect_is_nan_at_the_actual_values():
    """A switch on two traced integers: the trace does not show that their values differ in this way."""
    late = lambda step, start: lambda v: jnp.where(step <= start, rgrad.leave_one_out(v), v.mean())
    terms = jax.jit(lambda v, step, start: rgrad.surrogate(v, v, late(step, start)))
    v = jnp.array([2500.0, 2610.0, 2433.0, 2590.0])
    assert np.isfinite(terms(v, 5, 10)).all()
    assert np.isnan(terms(v, 20, 10)).all()
    # The gradient is nan too. What the baseline closes over gets no gradient.
    assert np.isnan(jax.grad(lambda v: terms(v, 20, 10).sum())(v)).all()


def test_leave_pair_out_is_the_mean_of_the_other_pairs():
    values = 1000 + np.arange(8, dtype=np.float32) ** 2
    want = [np.delete(values, [i, i + 1]).mean() for i in range(0, 8, 2) for _ in range(2)]
    np.testing.assert_allclose(rgrad.leave_pair_out(jnp.asarray(values)), want, rtol=1e-6)


def test_leave_out_formulas_are_finite_at_large_values():
    """The terms cancel only up to rounding: 1e4 +- 1, in 32 bits."""
    v = 1e4 + jax.random.normal(KEY, (50,))
    for name in ("the geometric mean of the others", "their variance"):
        assert np.isfinite(jax.jit(lambda v, name=name: rgrad.surrogate(v, v, HONEST[name]))(v)).all()


SHOWN = {
    "the values before, in a scan": lambda v: jax.lax.scan(lambda c, x: (0.9 * c + 0.1 * x, c), jnp.float32(0.0), v)[1],
    "the values after, in a scan": lambda v: jax.lax.scan(lambda c, x: (c + x, c), jnp.float32(0.0), v, reverse=True)[
        1
    ],
    "the other half": lambda v: jnp.repeat(jnp.stack([v[4:].mean(), v[:4].mean()]), 4),
    "the largest of the others": HONEST["the largest of the others"],
    "a matrix without a diagonal": HONEST["a matrix without a diagonal"],
    "sums before": lambda v: jnp.concatenate([jnp.zeros(1), jnp.cumsum(v)[:-1]]),
    "a branch": lambda v: jax.lax.cond(
        jax.random.uniform(KEY) < 0.5, lambda v: jnp.roll(v, 1), lambda v: jnp.roll(v, 2), v
    ),
}
UNSHOWN = {
    "the values up to now, in a scan": lambda v: jax.lax.scan(lambda c, x: (c + x, c + x), jnp.float32(0.0), v)[1],
    "the half with itself": lambda v: jnp.repeat(jnp.stack([v[:4].mean(), v[4:].mean()]), 4),
    "a branch on itself": lambda v: jax.lax.cond(v[0] < 0.5, lambda v: jnp.roll(v, 1), lambda v: jnp.roll(v, 2), v),
    "a loop": lambda v: jax.lax.while_loop(lambda c: c[1] < 4, lambda c: (jnp.roll(c[0], 1) + c[0], c[1] + 1), (v, 0))[
        0
    ],
    "a loop that depends": lambda v: jax.lax.while_loop(lambda c: c < v[0], lambda c: c + 1, 0.0) * jnp.ones(8),
    **REFUSED,
}


def test_what_the_trace_shows():
    """The trace shows that a baseline is independent, without changing any value. It never does for a dependent one."""
    values = jnp.arange(8.0)
    for name, baseline in SHOWN.items():
        assert shown_independent(baseline, values), name
    for name, baseline in UNSHOWN.items():
        assert not shown_independent(baseline, values), name


def test_a_scan_of_the_values_before_is_taken_as_it_is():
    """Its carry is in 32 bits, so it cannot be called in 64. By enumeration of two samples it is unbiased to 1e-6."""
    before = SHOWN["the values before, in a scan"]
    logits = jnp.asarray(LOGITS, jnp.float32)
    found = expectation(lambda samples: jax.grad(loss)(logits, samples, before), 2)
    np.testing.assert_allclose(found, jax.jit(jax.grad(truth))(logits), atol=1e-6)


def test_a_vouched_baseline_is_not_checked():
    values = jnp.arange(4.0)
    calls = []
    vouched = rgrad.independent(lambda v: calls.append(1) or v.mean())
    np.testing.assert_array_equal(rgrad.surrogate(values, values, vouched), values)
    assert len(calls) == 1
    rgrad.surrogate(values, values, rgrad.independent(values + 1))


def test_the_other_of_a_pair_behind_a_switch():
    late = lambda step: lambda v: jnp.where(step < jnp.exp(2.0), 0.0, rgrad.leave_one_out(v))
    loss = lambda step: jax.jit(jax.grad(lambda t: rgrad.expect(
        lambda x: x**2, rgrad.antithetic(dist.Normal(t, 1.0)), KEY, 4, partial(rgrad.score_function, baseline=late(step)))))(2.0)  # fmt: skip
    with pytest.raises(ValueError, match="uses the other half of the pair"):
        loss(20)


def test_leave_one_out():
    np.testing.assert_allclose(rgrad.leave_one_out(jnp.array([1.0, 2.0, 6.0])), [4.0, 3.5, 1.5])
    with pytest.raises(ValueError, match="n = 1 leaves no other sample"):
        rgrad.leave_one_out(jnp.ones(1))
    with pytest.raises(ValueError, match=r"shape \(2,\); it must be \(\) or \(3,\)"):
        rgrad.surrogate(jnp.ones(3), jnp.ones(3), jnp.ones(2))


@pytest.mark.parametrize("option", ["leave_one_out", "optimal"])
def test_a_partial_that_sets_nothing_is_the_baseline_itself(option):
    """Also as the baseline of groups, which only leave_one_out may be."""
    baseline, q = getattr(rgrad, option), dist.Normal(0.5, 1.0)
    terms = [
        rgrad.score_function(jnp.sin, q, jax.random.key(0), 4, baseline=b)
        for b in (baseline, partial(partial(baseline)))
    ]
    np.testing.assert_array_equal(*terms)
    if baseline is rgrad.leave_one_out:
        groups = jnp.array([0, 0, 1, 1])
        terms = [rgrad.surrogate(jnp.arange(4.0), jnp.ones(4), b, groups=groups) for b in (baseline, partial(baseline))]
        np.testing.assert_array_equal(*terms)
