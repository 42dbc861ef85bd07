"""The score function raises if a parameter that moves the support is differentiated, and only then."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms

import rgrad
from rgrad.distributions.support import edges

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
T = transforms


class Stretched(transforms.Transform):
    """A sigmoid times t. The class does not define a codomain."""

    def __init__(self, t):
        self.t = t

    def __call__(self, x):
        return self.t * jax.nn.sigmoid(x)

    def _inverse(self, y):
        return jnp.log(y / self.t) - jnp.log1p(-y / self.t)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.log(self.t) - jax.nn.softplus(x) - jax.nn.softplus(-x)

    def tree_flatten(self):
        return (self.t,), (("t",), {})


class Sheared(Stretched):
    """A map of the real line onto itself. At infinity its formula gives inf - inf."""

    codomain = dist.constraints.real

    def __call__(self, x):
        return x + self.t * (jnp.sqrt(1 + x**2) - jnp.abs(x))

    def _inverse(self, y):
        return y

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.zeros_like(x)


logistic = dist.Logistic(0.0, 1.0)
MOVING |= {
    "a sigmoid times t": lambda t: transformed(logistic, T.SigmoidTransform(), T.AffineTransform(0.0, t)),
    "relaxed bits times t": lambda t: affine(dist.RelaxedBernoulli(1.0, logits=0.0), 0.0, t),
    "a vector of them": lambda t: affine(dist.RelaxedBernoulli(1.0, logits=jnp.zeros(2)), 0.0, t).to_event(1),
    "t plus an exponential": lambda t: transformed(
        dist.Gumbel(0.0, 1.0), T.AffineTransform(0.0, -1.0), T.ExpTransform(), T.AffineTransform(t, 1.0)
    ),
    "t plus a log-normal": lambda t: affine(dist.LogNormal(0.0, 1.0), t, 1.0),
    "t plus a softplus": lambda t: transformed(logistic, T.SoftplusTransform(), T.AffineTransform(t, 1.0)),
    "a simplex times t": lambda t: transformed(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1), T.StickBreakingTransform(), T.AffineTransform(0.0, t)
    ),
    "through an inverse": lambda t: transformed(logistic, T.SigmoidTransform(), T.AffineTransform(0.0, t).inv),
    "the sigmoid of one sided": lambda t: transformed(
        dist.Exponential(1.0), T.AffineTransform(t, 1.0), T.SigmoidTransform()
    ),
    "a class of somebody's": lambda t: transformed(logistic, Stretched(t)),
    "within a mixture": lambda t: dist.MixtureGeneral(
        dist.Categorical(jnp.ones(2) / 2),
        [dist.Uniform(0.0, 1.0), transformed(logistic, T.SigmoidTransform(), T.AffineTransform(0.0, t))],
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
    "a sigmoid of an affine": lambda t: transformed(logistic, T.AffineTransform(t, t), T.SigmoidTransform()),
    "constant after a sigmoid": lambda t: transformed(
        logistic, T.AffineTransform(t, t), T.SigmoidTransform(), T.AffineTransform(1.0, -2.0)
    ),
    "a vector on a simplex": lambda t: transformed(
        dist.Normal(t * jnp.ones(2), 1.0).to_event(1), T.StickBreakingTransform()
    ),
    "relaxed bits": lambda t: dist.RelaxedBernoulli(1.0, logits=t),
    "the logarithm of a gamma": lambda t: transformed(
        dist.Gamma(t, 1.0), T.ExpTransform().inv, T.AffineTransform(t, t)
    ),
    "inverse gamma": lambda t: dist.InverseGamma(t, t),
    "a power of a gamma": lambda t: transformed(dist.Gamma(2.0, 1.0), T.PowerTransform(t)),
    "correlated": lambda t: transformed(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1), T.LowerCholeskyAffine(t * jnp.ones(2), t * jnp.eye(2))
    ),
    "of the whole line, as its class says": lambda t: transformed(dist.Normal(0.0, 1.0), Sheared(t)),
    "affine normal": lambda t: affine(dist.Normal(0.0, 1.0), t, t),
    "binomial": lambda t: dist.Binomial(10, t / 10),
    "categorical": lambda t: dist.Categorical(logits=t * jnp.arange(3.0)),
    "full covariance": lambda t: dist.MultivariateNormal(t * jnp.ones(2), scale_tril=t * jnp.eye(2)),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("keyed", [False, True])
def test_a_moving_support_raises(name, keyed):
    with pytest.raises(NotImplementedError, match=r"score_function: the support of \w+ depends .* use reparameterized"):
        (jax.jit(gradient, static_argnums=(0, 1, 2)) if keyed else gradient)(MOVING[name], 2.0, keyed)
    with pytest.raises(NotImplementedError, match="depends on a parameter"):
        jax.eval_shape(jax.vmap(lambda t: gradient(MOVING[name], t)), jnp.array([2.0, 3.0]))
    # The value does not raise.
    jax.eval_shape(lambda t: rgrad.expect(jnp.sum, MOVING[name](t), KEY, 4, rgrad.score_function), 2.0)


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_support_does_not(name):
    assert jnp.isfinite(jax.jit(lambda t: gradient(FIXED[name], t))(2.0))


def test_a_folded_distribution_has_an_edge():
    """NumPyro has no density for an image of it. So only the edge, at t, is tested."""
    found = jax.jit(lambda t: edges(affine(dist.FoldedDistribution(dist.Normal(0.0, 1.0)), t, 1.0)))(2.0)
    assert {float(x) for x in found} == {2.0}
