"""The score function refuses exactly those parameters that move the support, when they are differentiated."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms

import rgrad

KEY = jax.random.key(0)


def gradient(q, at=2.0, keyed=False):
    f = (lambda x, key: jnp.sum(x)) if keyed else jnp.sum
    return jax.grad(lambda t: rgrad.expect(f, q(t), KEY, 4, rgrad.score_function, keyed=keyed))(at)


def affine(base, loc, scale):
    return dist.TransformedDistribution(base, transforms.AffineTransform(loc, scale))


MOVING = {
    "uniform": lambda t: dist.Uniform(0.0, t),
    "uniform's low": lambda t: dist.Uniform(-t, 1.0),
    "uniform of both": lambda t: dist.Uniform(t, t + 1),
    "vector of uniforms": lambda t: dist.Uniform(jnp.zeros(2), t).to_event(1),
    "pareto's scale": lambda t: dist.Pareto(t, 3.0),
    "truncation": lambda t: dist.TruncatedNormal(0.0, 1.0, low=-t),
    "shifted exponential": lambda t: affine(dist.Exponential(1.0), t, 1.0),
    "scaled beta": lambda t: affine(dist.Beta(2.0, 2.0), 0.0, t),
}


def transformed(base, *parts):
    return dist.TransformedDistribution(base, list(parts))


MOVING |= {
    "exponential of a uniform": lambda t: transformed(dist.Uniform(0.0, t), transforms.ExpTransform()),
    "a pareto by hand": lambda t: transformed(
        dist.Exponential(3.0), transforms.ExpTransform(), transforms.AffineTransform(0.0, t)
    ),
    "composed": lambda t: transformed(
        dist.Exponential(1.0), transforms.ComposeTransform([transforms.AffineTransform(t, 1.0)])
    ),
    "power": lambda t: transformed(dist.Uniform(1.0, 2.0), transforms.PowerTransform(t)),
    "folded": lambda t: dist.FoldedDistribution(dist.Uniform(0.0, t)),
    "delta": lambda t: dist.Delta(t),
    "mixture": lambda t: dist.MixtureGeneral(
        dist.Categorical(jnp.ones(2) / 2),
        [dist.Uniform(0.0, 1.0), dist.Uniform(0.0, t)],
        support=dist.constraints.real,
    ),
}
FIXED = {
    "normal": lambda t: dist.Normal(t, t),
    "uniform with constant bounds": lambda t: dist.Uniform(0.0, 1.0),
    "pareto's exponent": lambda t: dist.Pareto(1.0, t),
    "truncated, its loc": lambda t: dist.TruncatedNormal(t, 1.0, low=-1.0),
    "gamma": lambda t: dist.Gamma(t, t),
    "beta": lambda t: dist.Beta(t, 1.0),
    "dirichlet": lambda t: dist.Dirichlet(t * jnp.ones(3)),
    "log-normal": lambda t: dist.LogNormal(t, t),
    "mixture of normals": lambda t: dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Normal(t * jnp.arange(2.0), 1.0)
    ),
    "weibull": lambda t: dist.Weibull(t, t),
    "kumaraswamy": lambda t: dist.Kumaraswamy(t, t),
    "shifted log-normal's scale": lambda t: affine(dist.LogNormal(0.0, t), 1.0, 2.0),
    "von Mises": lambda t: dist.VonMises(t, t),
    "folded normal": lambda t: dist.FoldedDistribution(dist.Normal(t, 1.0)),
    "half-normal": lambda t: dist.HalfNormal(t),
    "scaled exponential": lambda t: affine(dist.Exponential(1.0), 0.0, t),
    "affine normal": lambda t: affine(dist.Normal(0.0, 1.0), t, t),
    "binomial": lambda t: dist.Binomial(10, t / 10),
    "categorical": lambda t: dist.Categorical(logits=t * jnp.arange(3.0)),
    "full covariance": lambda t: dist.MultivariateNormal(t * jnp.ones(2), scale_tril=t * jnp.eye(2)),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("keyed", [False, True])
def test_a_moving_support_raises(name, keyed):
    with pytest.raises(NotImplementedError, match=r"score_function: the support of \w+ depends .* use reparameterized"):
        gradient(MOVING[name], keyed=keyed)
    with pytest.raises(NotImplementedError, match="depends on a parameter"):
        jax.jit(jax.vmap(lambda t: gradient(MOVING[name], t)))(jnp.array([2.0, 3.0]))
    jax.jit(lambda t: rgrad.expect(jnp.sum, MOVING[name](t), KEY, 4, rgrad.score_function))(2.0)  # the value is fine


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_support_does_not(name):
    assert jnp.isfinite(gradient(FIXED[name]))
