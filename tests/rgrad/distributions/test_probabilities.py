"""Probabilities of exactly 0 and 1, rates of 0, and counts beyond 32 bits: the results are right, or refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import rgrad
from rgrad.distributions.probabilities import probability
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
exactly = lambda f, q: rgrad.expect(f, q, KEY, 1, rgrad.enumerated)
values = jnp.array([1.0, 2.0, 5.0])
bits = jnp.array([0.0, 1.0, 0.3])


def mixture(w):
    return dist.MixtureSameFamily(dist.Categorical(probs=w), dist.Bernoulli(probs=jnp.array([0.0, 0.5, 1.0])))


def test_enumerated_at_the_edges():
    """By hand, `d/dp E[f] = f(1) - f(0)`. For a product, the probabilities of the others enter. For n tosses it is
    n (f(1) - f(0)) at 0. For normalised probs and weights, `d/dp_k = f(k) - E[f]`. Second derivatives too."""
    line = lambda x: 3.0 * x + 1
    of_bits = lambda x: (x * jnp.array([1.0, 2.0, 4.0])).sum() ** 2
    cases = [
        (lambda p: exactly(line, dist.Bernoulli(p)), 0.0, 3.0),
        (lambda p: exactly(line, dist.Bernoulli(p)), 1.0, 3.0),
        (lambda p: exactly(lambda x: values[x], dist.Categorical(probs=p)), jnp.array([0.5, 0.5, 0.0]), values - 1.5),
        # x = (., 1, y): f = (x0 + 2 + 4 y)^2, and d/dp0 = E[5 + 8 y] = 7.4; x1: f = (2 x1 + 4 y)^2: E[4 + 16 y] = 8.8;
        # x2: 36 - 4
        (lambda p: exactly(of_bits, dist.Bernoulli(p).to_event(1)), bits, [7.4, 8.8, 32.0]),
        (lambda p: exactly(lambda x: x * x, dist.Binomial(5, p)), 0.0, 5.0),
        (lambda p: exactly(lambda x: x * x, dist.Binomial(5, p)), 1.0, 45.0),
        (jax.grad(lambda p: exactly(lambda x: x * x, dist.Binomial(5, p))), 0.0, 40.0),
        (
            lambda w: sum(probability(mixture(w), x) * line(x) for x in jnp.arange(2)),
            jnp.array([0.5, 0.5, 0.0]),
            [-0.75, 0.75, 2.25],
        ),
    ]
    got = jax.jit(lambda: [jax.grad(loss)(at) for loss, at, _ in cases])()
    for one, (_, at, truth) in zip(got, cases, strict=True):
        np.testing.assert_allclose(one, truth, rtol=1e-6, err_msg=str(at))


def test_probabilities_of_a_long_binomial():
    """In 32 bits it is right to 1e-4 of the largest one. The logarithms of factorials would leave an error of 6 %."""
    for n, p in ((60_000, 0.9), (300, 0.5), (12, 0.01)):
        x = np.arange(n + 1)
        got = jax.vmap(lambda k, n=n, p=p: probability(dist.Binomial(n, p), k))(x)
        want = stats.binom.pmf(x, n, p)
        np.testing.assert_allclose(got, want, atol=1e-4 * want.max())


def test_a_mixture_weight_of_zero():
    """`d/dw_2 E[x] = mu_2 - E[x]` at weights (.4, .6, 0), from samples of the others.

    False failure probability 1e-6; catches 0.1.
    """
    w, means = jnp.array([0.4, 0.6, 0.0]), jnp.array([0.0, 1.0, 0.5])

    def draw(key):
        q = lambda w: dist.MixtureSameFamily(dist.Categorical(probs=w), dist.Normal(means, 1.0))
        return jax.grad(lambda w: rgrad.expect(lambda x: x, q(w), key, 20, leave_one_out))(w)

    assert_unbiased(draw, np.asarray(means) - 0.6, smallest_bias=0.1, replicates=10_000)


ESTIMATORS = {
    "score_function": (leave_one_out, lambda p: dist.Bernoulli(p)),
    "arm": (rgrad.arm, lambda p: dist.Bernoulli(p)),
    "disarm": (rgrad.disarm, lambda p: dist.Bernoulli(p)),
    "rebar": (rgrad.rebar, lambda p: dist.Bernoulli(p)),
    "gumbel_softmax": (rgrad.gumbel_softmax, lambda p: dist.Bernoulli(p)),
    "Poisson": (leave_one_out, lambda p: dist.Poisson(p)),
    "of several": (leave_one_out, lambda p: dist.Bernoulli(jnp.stack([p, 0.5])).to_event(1)),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_never_drawn_is_refused(name):
    """It raises if the parameter is known, and is nan if it is traced. The value is right; a constant 0 is accepted."""
    estimator, q = ESTIMATORS[name]
    loss = lambda p, scale=1.0: scale * rgrad.expect(lambda x: 3.0 * jnp.sum(x), q(p), KEY, 4, estimator)
    value, gradient = jax.jit(jax.value_and_grad(loss))(0.0)
    assert np.isfinite(value)
    assert np.isnan(gradient)
    if name in ("score_function", "Poisson"):
        with pytest.raises(ValueError, match="never drawn"):
            jax.grad(loss)(0.0)
        assert jax.grad(loss, 1)(0.0, 1.0) == 0.0


def test_only_the_entry_that_is_never_drawn_is_refused():
    loss = lambda p: rgrad.expect(lambda x: x.sum(), dist.Bernoulli(p).to_event(1), KEY, 10, rgrad.score_function)
    np.testing.assert_array_equal(np.isnan(jax.jit(jax.grad(loss))(bits)), [True, True, False])


def test_classes_that_are_masked():
    """A class with probability 0 gives nan only in its own entry. Other derivatives are right: p (1 - p) (2 - 1)."""
    f = lambda x: values[x]
    of = lambda p: rgrad.expect(f, dist.Categorical(probs=p), KEY, 4000, leave_one_out)
    np.testing.assert_array_equal(np.isnan(jax.grad(of)(jnp.array([0.5, 0.5, 0.0]))), [False, False, True])
    masked = lambda t: of(jnp.where(jnp.array([True, True, False]), jnp.stack([1 - t, t, t]), 0.0))
    assert jax.grad(masked)(0.5) == pytest.approx(1.0, abs=0.2)  # six standard errors: the variance is 1 / n


def test_measure_valued_at_a_rate_of_zero():
    """It is exact, because x+ = x + 1 is drawn."""
    loss = lambda t: rgrad.expect(lambda x: 3.0 * x + 1, dist.Poisson(t), KEY, 4, rgrad.measure_valued)
    assert jax.grad(loss)(0.0) == 3.0
    loss = lambda t: rgrad.expect(lambda x: 3.0 * x + 1, dist.Bernoulli(t), KEY, 4, rgrad.measure_valued)
    assert jax.grad(loss)(1.0) == 3.0


table = jnp.arange(10.0)
COUNTS = [  # f, q, estimator, E[f], and a relative error of at most six standard errors of the mean of 1,000
    (lambda x: x**2, dist.Poisson(1e5), rgrad.score_function, 1e10 + 1e5, 2e-3),
    (lambda x: 3 * x * x, dist.Binomial(100_000, 0.5), rgrad.score_function, 3 * 2.500025e9, 1e-3),
    (lambda x: x.sum() ** 2, dist.Poisson(jnp.full(3, 3e4)).to_event(1), rgrad.score_function, 8.1e9 + 9e4, 2e-3),
    (lambda x: x**2, dist.Poisson(1e5), rgrad.measure_valued, 1e10 + 1e5, 2e-3),
    (lambda x: x**2, dist.Binomial(60_000, 0.9), rgrad.enumerated, 2.9160054e9, 1e-5),
    (lambda x: table[jnp.minimum(x, 9)], dist.Poisson(1e5), rgrad.score_function, 9.0, 0),  # an index, never multiplied
]


@pytest.mark.parametrize("case", range(len(COUNTS)))
def test_counts_beyond_what_integers_can_square(case):
    f, q, estimator, truth, error = COUNTS[case]
    np.testing.assert_allclose(jax.jit(lambda: rgrad.expect(f, q, KEY, 1000, estimator))(), truth, rtol=error)


def test_counts_are_integers_to_an_f_that_needs_them():
    """f indexes with x and squares it. Small counts give the same numbers; a square that would overflow gives nan."""
    f = lambda x: table[jnp.minimum(x, 9)] + x**2
    loss = lambda rate: rgrad.expect(f, dist.Poisson(rate), KEY, 100, rgrad.score_function)
    by_hand = jnp.mean(jax.vmap(f)(dist.Poisson(3.0).sample(KEY, (100,))))
    assert loss(3.0) == pytest.approx(float(by_hand), rel=1e-6)
    assert np.isnan(loss(1e5))
    seen = []
    rgrad.expect(lambda x: seen.append(x.dtype) or x + 1.0, dist.Poisson(3.0), KEY, 10, rgrad.score_function)
    assert all(jnp.issubdtype(kind, jnp.integer) for kind in seen)


def test_rates_beyond_the_integers_of_the_sampler():
    """A Poisson of 1e10 would be drawn as 2147483647. It is refused if the rate is known, and nan if it is traced."""
    loss = lambda rate: rgrad.expect(lambda x: x, dist.Poisson(rate), KEY, 10, rgrad.score_function)
    with pytest.raises(ValueError, match=r"Poisson has rate 1e\+10"):
        loss(1e10)
    assert np.isnan(jax.jit(loss)(1e10))
    assert jax.jit(loss)(1e9) == pytest.approx(1e9, rel=1e-3)
