"""Tests of `assert_unbiased`: it must fail on a planted bias of more than twice the smallest bias that it catches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import rgrad
from tests.calibration import assert_unbiased


def gradient(estimator, n=10):
    return lambda key: jax.grad(lambda t: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, n, estimator))(2.0)


def mean_baseline(f, q, key, n):
    """Planted: a baseline that saw its own sample. It shrinks the gradient by 1 - 1/n."""
    x = jax.lax.stop_gradient(q.sample(key, (n,)))
    values = jax.vmap(f)(x)
    return rgrad.surrogate(values, q.log_prob(x), rgrad.independent(jax.lax.stop_gradient(values.mean())))


def one_key_twice(f, q, key, n):
    """Planted: f uses the noise of x."""
    x = jax.lax.stop_gradient(q.sample(key, (n,)))
    return rgrad.surrogate(jax.vmap(f)(x) + jax.random.normal(key, (n,)), q.log_prob(x))


def ten_times_too_small(f, q, key, n):
    return 0.1 * rgrad.score_function(f, q, key, n)


def counted_twice(f, q, key, n):
    """Planted: the gradient passes through both the sample and its density."""
    x = q.rsample(key, (n,))
    return rgrad.attach(jax.vmap(f)(x), q.log_prob(jax.lax.stop_gradient(x)))


@pytest.mark.parametrize("planted", [mean_baseline, one_key_twice, ten_times_too_small, counted_twice])
def test_fails_on_a_biased_estimator(planted):
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(gradient(planted), 4.0, smallest_bias=0.2, replicates=40_000)


def test_passes_unbiased_ones():
    assert_unbiased(gradient(rgrad.score_function), 4.0, smallest_bias=0.2)
    assert_unbiased(gradient(partial(rgrad.score_function, baseline=rgrad.leave_one_out)), 4.0, smallest_bias=0.2)


def test_refuses_to_judge_with_too_much_noise():
    with pytest.raises(AssertionError, match="add replicates"):
        assert_unbiased(gradient(rgrad.score_function), 4.0, smallest_bias=0.01)
    with pytest.raises(AssertionError, match="tails too heavy"):
        assert_unbiased(lambda key: jax.random.cauchy(key), 0.0, smallest_bias=1e9)
    with pytest.raises(AssertionError, match="not finite"):
        assert_unbiased(lambda key: jnp.log(jax.random.normal(key)), 0.0, smallest_bias=1.0)


def test_false_failures_are_as_rare_as_it_says():
    """At a nominal rate of 1 % (0.1 % is used), more than 12 failures in 300 unbiased runs have a probability below 1e-6."""
    failures = 0
    normal = lambda key: jax.random.normal(key)
    for seed in range(300):
        try:
            assert_unbiased(normal, 0.0, smallest_bias=1.0, replicates=1000, seed=seed, false_failure=0.01)
        except AssertionError:
            failures += 1
    assert failures <= 12
