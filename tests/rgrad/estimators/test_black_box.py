"""An objective that JAX cannot differentiate. Every estimator that allows any f must accept it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import rgrad
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)


def above(x):
    """1 if x > 0.3, computed by NumPy. Differentiating it with respect to x raises."""
    shape = jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32)
    return jax.pure_callback(lambda x: np.float32(np.asarray(x) > 0.3), shape, x, vmap_method="expand_dims")


def first_above(x):
    return above(x[0])


def normal(t):
    return dist.Normal(t, jnp.exp(t))


def bernoulli(t):
    return dist.Bernoulli(logits=t)


def one_hot(t):
    return rgrad.OneHotCategorical(jnp.stack([t, 0 * t, -t]))


with_baseline = lambda baseline: partial(rgrad.score_function, baseline=baseline)
relax = partial(rgrad.relax, control_variate=lambda z: jnp.tanh(z).sum())
apart = partial(rgrad.measure_valued, coupled=False)
ASK_NOTHING = {
    "score_function": (normal, rgrad.score_function, above),
    "leave_one_out": (normal, with_baseline(rgrad.leave_one_out), above),
    "optimal": (normal, with_baseline(rgrad.optimal), above),
    "moving_average": (normal, with_baseline(rgrad.moving_average()), above),
    "control variate": (normal, partial(rgrad.score_function, control_variate=(lambda x: 0.0, 0.0)), above),
    "antithetic": (lambda t: rgrad.antithetic(normal(t)), with_baseline(rgrad.leave_pair_out), above),
    "quasi": (lambda t: rgrad.quasi(normal(t)), rgrad.score_function, above),
    "jax_random": (lambda t: rgrad.jax_random(normal(t)), rgrad.score_function, above),
    "Gamma": (lambda t: dist.Gamma(jnp.exp(t), 1.0), rgrad.score_function, above),
    "Dirichlet": (lambda t: dist.Dirichlet(jnp.exp(t) * jnp.ones(2)), rgrad.score_function, first_above),
    "one-hot": (one_hot, rgrad.score_function, first_above),
    "arm": (bernoulli, rgrad.arm, above),
    "disarm": (bernoulli, rgrad.disarm, above),
    "relax": (bernoulli, relax, above),
    "relax, one-hot": (one_hot, relax, first_above),
    "enumerated": (bernoulli, rgrad.enumerated, above),
    "enumerated, one-hot": (one_hot, rgrad.enumerated, first_above),
    "measure_valued": (normal, rgrad.measure_valued, above),
    "measure_valued, apart": (normal, apart, above),
    "measure_valued, vector": (
        lambda t: dist.Normal(t * jnp.ones(2), 1.0).to_event(1), rgrad.measure_valued, first_above),
    "measure_valued, LogNormal": (lambda t: dist.LogNormal(t, jnp.exp(t)), rgrad.measure_valued, above),
    "measure_valued, Gamma": (lambda t: dist.Gamma(2.0, jnp.exp(t)), apart, above),
    "measure_valued, Poisson": (lambda t: dist.Poisson(jnp.exp(t)), apart, above),
    "measure_valued, Bernoulli": (bernoulli, rgrad.measure_valued, above),
    "measure_valued, probs": (lambda t: dist.Bernoulli(jax.nn.sigmoid(t)), rgrad.measure_valued, above),
}  # fmt: skip


@pytest.mark.parametrize("name", ASK_NOTHING)
def test_no_derivative_passes_through_the_sample(name):
    """JAX raises while it traces the derivative of a callback, so nothing needs to be computed."""
    q, estimator, f = ASK_NOTHING[name]
    with_theta = lambda t, key: rgrad.expect(lambda x: t * f(x), q(t), key, 4, estimator)
    keyed = lambda t, key: rgrad.expect(lambda x, k: t * f(x), q(t), key, 4, estimator, keyed=True)
    for loss in (with_theta, keyed, jax.jit(with_theta)):
        jax.eval_shape(jax.grad(loss), 0.1, KEY)
        jax.eval_shape(jax.vmap(jax.jacfwd(loss), (None, 0)), 0.1, jax.random.split(KEY, 2))


@pytest.mark.parametrize(
    ("q", "probability", "slope"),  # the probability of x > 0.3, and its derivative at t = 0, the density at 0.3
    [
        (lambda t: dist.Normal(t, 1.0), stats.norm.sf(0.3), stats.norm.pdf(0.3)),
        (lambda t: dist.Exponential(jnp.exp(t)), np.exp(-0.3), -0.3 * np.exp(-0.3)),
    ],
    ids=["Normal", "Exponential"],
)
def test_the_measure_valued_gradient_of_a_black_box(q, probability, slope):
    """Includes the derivative of a parameter that f uses itself: (1 + t) 1[x > 0.3] at t = 0. False failures: 1e-6."""
    loss = lambda t, key: rgrad.expect(lambda x: (1 + t) * above(x), q(t), key, 100, rgrad.measure_valued)
    truth = slope + probability
    assert_unbiased(lambda key: jax.grad(loss)(0.0, key), truth, smallest_bias=0.02, replicates=2_000)


def test_a_mixed_derivative_of_measure_valued_is_that_of_f():
    """d/dphi d/dt E[sin(phi) x^2], x ~ N(t, 1), equals that of the estimate: f keeps its parameter inside the rule."""
    loss = lambda t, phi: rgrad.expect(
        lambda x: jnp.sin(phi) * x**2, dist.Normal(t, 1.0), KEY, 100, rgrad.measure_valued
    )
    by_hand, mixed = jax.jit(jax.value_and_grad(jax.grad(loss), 1))(1.0, 0.5)
    np.testing.assert_allclose(mixed, by_hand * np.cos(0.5) / np.sin(0.5), rtol=1e-4)
