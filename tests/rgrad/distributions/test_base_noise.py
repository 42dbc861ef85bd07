"""The score from the noise of a sample: it is right although the sample is rounded, or nan if too few digits are left."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms
from scipy.special import betaln, digamma, expit, polygamma

import rgrad
from rgrad.distributions.base_noise import base_noise, score_density
from rgrad.distributions.copies import Copies
from rgrad.distributions.implicit import sample
from rgrad.distributions.keyed import WithKey
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
identity = lambda x: x


def image(base, *maps):
    return dist.TransformedDistribution(base, list(maps))


def matrix(t):
    return jnp.eye(3) * jnp.exp(t[0]) + jnp.tril(jnp.ones((3, 3)), -1) * t[1]


POINT = jnp.array([0.3, -0.2, 0.5])
FAMILIES = {  # as functions of t, shape (3,)
    "Laplace": lambda t: dist.Laplace(t[0], jnp.exp(t[1])),
    "StudentT": lambda t: dist.StudentT(3 * jnp.exp(t[2]), t[0], jnp.exp(t[1])),
    "AsymmetricLaplace": lambda t: dist.AsymmetricLaplace(t[0], jnp.exp(t[1]), jnp.exp(t[2])),
    "MultivariateNormal": lambda t: dist.MultivariateNormal(POINT + t[2], scale_tril=matrix(t)),
    "MultivariateStudentT": lambda t: dist.MultivariateStudentT(4 + t[1], POINT + t[2], scale_tril=matrix(t)),
    "InverseGamma": lambda t: dist.InverseGamma(2 * jnp.exp(t[0]), jnp.exp(t[1])),
    "Gamma, expanded": lambda t: dist.Gamma(jnp.exp(t)[:, None], 2.0).expand([2, 3, 4]).to_event(3),
    "Beta, expanded": lambda t: dist.Beta(jnp.exp(t)[:, None], 2.0).expand([2, 3, 4]).to_event(3),
    "Dirichlet": lambda t: dist.Dirichlet(jnp.exp(t)),
    "Pareto": lambda t: dist.Pareto(jnp.exp(t[0]), jnp.exp(t[1])),
    "RelaxedBernoulli, scaled": lambda t: image(
        dist.RelaxedBernoulliLogits(jnp.exp(t[1]), t[0]), transforms.AffineTransform(0.0, jnp.exp(t[2]))
    ),
    "Weibull, scaled": lambda t: image(
        dist.Weibull(jnp.exp(t[0]), jnp.exp(t[1])), transforms.AffineTransform(0.0, jnp.exp(t[2]))
    ),
    "Kumaraswamy, scaled": lambda t: image(
        dist.Kumaraswamy(jnp.exp(t[0]), jnp.exp(t[1])), transforms.AffineTransform(0.0, jnp.exp(t[2]))
    ),
    "Gamma, scaled": lambda t: image(
        dist.Gamma(jnp.exp(t[0]), jnp.exp(t[1])), transforms.AffineTransform(0.0, jnp.exp(t[2]))
    ),
    "a chain": lambda t: image(
        dist.Normal(t[0], 1.0),
        transforms.AffineTransform(t[1], jnp.exp(t[2])),
        transforms.SoftplusTransform(),
        transforms.PowerTransform(jnp.exp(t[1])),
        transforms.ExpTransform(),
        transforms.AffineTransform(0.0, -jnp.exp(t[0])),
    ),
    "stick breaking": lambda t: image(dist.Normal(t, 1.0).to_event(1), transforms.StickBreakingTransform()),
    "a map that is inverted": lambda t: image(
        dist.Normal(t, 1.0).to_event(1),
        transforms.OrderedTransform(),
        transforms.IndependentTransform(transforms.AffineTransform(t[0], jnp.exp(t[1])), 1),
    ),
    "a matrix": lambda t: image(
        dist.StudentT(5.0).expand([3]).to_event(1), transforms.LowerCholeskyAffine(POINT * t[0], matrix(t))
    ),
    "location_scale": lambda t: rgrad.location_scale(POINT * t[0], matrix(t)),
    "state space": lambda t: dist.GaussianStateSpace(3, jnp.eye(2) * t[0], scale_tril=jnp.eye(2) * jnp.exp(t[1])),
}
FAST = ("MultivariateNormal", "Beta, expanded", "a chain")


@pytest.mark.parametrize("names", [FAST, pytest.param(tuple(FAMILIES), marks=pytest.mark.long)])
def test_at_ordinary_points_it_is_the_density(names, x64):
    """In 64 bits, first and second derivatives are those of NumPyro's density at the sample. So are the samples."""
    t = jnp.array([0.2, -0.3, 0.4])
    for name in names:
        of = FAMILIES[name]

        @jax.jit
        def derivatives(t, of=of):
            how = base_noise(of(t))
            eps = how.sample(KEY, (3,))
            x = jax.lax.stop_gradient(how.push(eps))
            mine = lambda t, e: base_noise(of(t)).log_prob(e, None)
            theirs = lambda t, x: of(t).log_prob(x)
            both = lambda f: lambda t, e: (jax.grad(f)(t, e), jax.hessian(f)(t, e))
            at = lambda f, points: jax.vmap(both(f), (None, 0))(t, points)
            return (x, at(mine, eps)), (sample(of(t), KEY, (3,)), at(theirs, x))

        got, want = derivatives(t)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9, err_msg=name), got, want)


def kumaraswamy(a, b):
    """Return d/da and d/db of `E[x] = b B(1 + 1/a, b)`."""
    mean = b * np.exp(betaln(1 + 1 / a, b))
    late = digamma(1 + 1 / a + b)
    return mean * (digamma(1 + 1 / a) - late) * -1 / a**2, mean * (1 / b + digamma(b) - late)


def normal_mean(f, loc, scale):
    e = np.linspace(-12, 12, 200_001)
    return np.sum(f(loc + scale * e) * np.exp(-(e**2) / 2)) / np.sum(np.exp(-(e**2) / 2))


def relaxed(logits, temperature):
    """Return d/d logits of the mean, by the midpoint rule in the logit of the uniform."""
    z = np.linspace(-60, 60, 1_200_001)
    slope = lambda z: expit(z) * expit(-z)
    return np.sum(slope(z) * slope((z + logits) / temperature)) * (z[1] - z[0]) / temperature


A, B = kumaraswamy(0.1, 0.1)
ROUNDED = {  # q as a function of the parameter, the parameter, d E[x], and the estimator
    "sigmoid of a normal": (
        lambda t: image(dist.Normal(t, 10.0), transforms.SigmoidTransform()),
        10.0,
        normal_mean(lambda x: expit(x) * expit(-x), 10.0, 10.0),
        leave_one_out,
    ),
    "the scale of one": (
        lambda t: image(dist.Normal(0.0, 1.0), transforms.AffineTransform(10.0, t), transforms.SigmoidTransform()),
        10.0,
        normal_mean(lambda x: (x - 10) / 10 * expit(x) * expit(-x), 10.0, 10.0),
        leave_one_out,
    ),
    "a low temperature": (
        lambda t: rgrad.jax_random(dist.RelaxedBernoulliLogits(0.05, t)),
        0.5,
        relaxed(0.5, 0.05),
        leave_one_out,
    ),
    "Kumaraswamy, a": (lambda t: dist.Kumaraswamy(t, 0.1), 0.1, A, leave_one_out),
    "Kumaraswamy, b": (lambda t: dist.Kumaraswamy(0.1, t), 0.1, B, leave_one_out),
    "a narrow normal": (lambda t: dist.Normal(t, 1e-3), 1e4, 1.0, leave_one_out),
    "Beta": (lambda t: dist.Beta(t, 0.2), 0.1, 0.2 / 0.09, leave_one_out),
    "Gamma": (lambda t: dist.Gamma(t, 1.0), 0.02, 1.0, leave_one_out),
}


def test_rounded_samples():
    """In 32 bits, relative to the truth (closed forms, or quadrature in 64 bits). False failure probability 1e-6.

    Catches a bias of 6 % in any of them. With the score at the sample, the bias is 8 to 80 %.
    """

    def draw(key):
        return {
            name: jax.grad(lambda t, q=q, e=e: rgrad.expect(identity, q(t), key, 30, e))(at) / truth
            for name, (q, at, truth, e) in ROUNDED.items()
        }

    assert_unbiased(draw, dict.fromkeys(ROUNDED, 1.0), smallest_bias=0.06, replicates=40_000)


def test_small_gradients_of_large_functions():
    """At Gamma(1e4, 1), d/da E[x] is 1 and x is 1e4; d/da E[log x] is 1e-4 and log x is 9.

    Without their baseline, `generalized` and `rejection` are off by 0.7 % and by 3 to 7 %. Relative to the truth;
    false failure probability 1e-6; catches 0.1 %.
    """
    truths = {"x": (identity, 1.0), "log x": (jnp.log, float(polygamma(1, 1e4)))}

    def draw(key):
        gradient = lambda f, e: jax.grad(lambda a: rgrad.expect(f, dist.Gamma(a, 1.0), key, 30, e))(1e4)
        return [gradient(f, e) / truth for e in (rgrad.generalized, rgrad.rejection) for f, truth in truths.values()]

    assert_unbiased(draw, [1.0] * 4, smallest_bias=1e-3, replicates=4000)


@pytest.mark.parametrize(
    ("q", "at"),
    [
        (lambda t: dist.Normal(t, 1e-4), 1e4),
        (lambda t: image(dist.Normal(0.0, 1.0), transforms.AffineTransform(t, 1e-4)), 1e4),
        (lambda t: dist.MultivariateNormal(jnp.array([t, 0.0]), jnp.diag(jnp.array([1e-8, 1.0]))), 1e4),
        (lambda t: dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Beta(t * jnp.ones(2), 0.2)), 0.05),
    ],
    ids=["Normal", "Affine", "MultivariateNormal", "mixture of Betas"],
)
def test_what_cannot_be_resolved_is_nan(q, at):
    """The result is nan, not 0. Samples that are all equal would give 0."""
    loss = lambda t: rgrad.expect(jnp.sum, q(t), KEY, 100, leave_one_out)
    value, gradient = jax.jit(jax.value_and_grad(loss))(at)
    assert np.isnan(gradient)
    assert np.isnan(value)


@pytest.mark.parametrize("estimator", ["reparameterized", "score_function", "generalized", "measure_valued"])
def test_underflow_is_the_same_with_jit_and_without(estimator):
    """One in twenty samples of LogNormal(-60, 25) is 0 in 32 bits, so log x is -inf.

    It stays so under jit, although XLA would cancel log and exp. A bounded f is right.
    """
    loss = lambda f, t: rgrad.expect(f, dist.LogNormal(t, 25.0), KEY, 50, getattr(rgrad, estimator))
    for f in (jnp.log, lambda x: x / (1 + x)):
        both = jax.value_and_grad(partial(loss, f))
        np.testing.assert_allclose(both(-60.0), jax.jit(both)(-60.0), rtol=1e-4)
    assert np.isfinite(jax.grad(partial(loss, lambda x: x / (1 + x)))(-60.0))


def test_wrappers_have_the_same_score():
    """`to_event`, `expand`, keys, antithetic draws and K copies give the score of the q inside, a sigmoid at 20."""
    inside = lambda t: image(dist.Normal(t, 1.0), transforms.SigmoidTransform())
    noise = 2 * jnp.ones(())
    assert base_noise(inside(18.0)).push(noise) >= 1 - 2e-7
    want = jax.grad(lambda t: base_noise(inside(t)).log_prob(noise, None))(18.0)
    for wrap, eps, factor in (
        (lambda q: q.expand([2]).to_event(1), jnp.full(2, 2.0), 2),
        (rgrad.jax_random, noise, 1),
        (rgrad.antithetic, noise, 1),
        (WithKey, (noise, KEY), 1),
        (lambda q: Copies(q, 3), jnp.full(3, 2.0), 3),
    ):
        got = jax.grad(lambda t, wrap=wrap, eps=eps: base_noise(wrap(inside(t))).log_prob(eps, None))(18.0)
        np.testing.assert_allclose(got, factor * want, rtol=1e-6)


class BernoulliWithoutZero(dist.BernoulliProbs):
    """The density of one of its own samples is 0. With NumPyro's validation, too small a support has this effect."""

    def log_prob(self, value):
        return jnp.where(value > 0, super().log_prob(value), -jnp.inf)


def test_a_density_of_zero_at_an_own_sample_is_nan():
    """This includes reverse mode, where the derivative of the density itself is 0."""
    for estimator in (rgrad.score_function, leave_one_out):
        loss = lambda p, e=estimator: rgrad.expect(lambda x: x * 1.0, BernoulliWithoutZero(p), KEY, 8, e)
        assert np.isnan(jax.jit(jax.grad(loss))(0.5))
        assert np.isnan(jax.jit(jax.jacfwd(loss))(0.5))


def zero_inflated(t):
    return dist.ZeroInflatedDistribution(dist.Binomial(3, logits=t).expand([3]), gate_logits=t).to_event(1)


def mixture(t):
    parts = dist.Bernoulli(logits=jnp.stack([t, 2 * t]))
    return dist.MixtureSameFamily(dist.Categorical(logits=jnp.stack([t, -t])), parts).expand([2]).to_event(1)


@pytest.mark.parametrize(
    "of",
    [
        lambda t: dist.Bernoulli(logits=t).expand([3]).to_event(1),
        lambda t: dist.Bernoulli(logits=t).expand([2, 3]).to_event(2),
        lambda t: dist.Bernoulli(logits=t * jnp.ones(3)).expand([2, 3]).to_event(2),
        lambda t: dist.Binomial(4, logits=t).expand([3]).to_event(1),
        lambda t: dist.Geometric(logits=t).expand([3]).to_event(1),
        lambda t: rgrad.jax_random(dist.Bernoulli(logits=t).expand([3]).to_event(1)),
        lambda t: dist.Bernoulli(logits=t).expand([3]).expand([2, 3]).to_event(2),
        zero_inflated,
        mixture,
    ],
)
def test_the_score_at_a_logit_of_0_in_any_nesting(of, x64):
    """Against central differences of the density. NumPyro's derivative is off by 1/2 for each number of a sample."""
    x = base_noise(of(0.2)).sample(KEY, (5,))
    score = jax.jit(jax.jacobian(lambda t: score_density(base_noise(of(t)), x)))(0.0)
    density = jax.jit(lambda t: jax.vmap(rgrad.log_prob, (None, 0))(of(t), x))
    want = (density(1e-5) - density(-1e-5)) / 2e-5
    np.testing.assert_allclose(score, want, atol=1e-6)
