"""GO gradients of counts: exact sums over all values in 64 bits, the ratios in both tails, and what is refused."""

from fractions import Fraction
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
from scipy import stats

import rgrad
from rgrad.distributions.cumulative import ratios
from rgrad.estimators.go import go
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
FUNCTIONS = (
    lambda x: x * 1.0,
    lambda x: x**2 * 1.0,
    lambda x: jnp.sqrt(x + 1.0),
    jnp.sin,
    lambda x: jnp.where(x > 2, 1.0, 0.0),
)
RATES, P = np.array([0.3, 2.0, 30.0]), np.array([0.05, 0.5, 0.9])
N, R = 7, 2.5  # the number of trials of a Binomial, and of successes of a NegativeBinomial
# The distribution, its parameter, its values, their probabilities, and the score, by hand.
FAMILIES = {
    "Poisson": (dist.Poisson, RATES, 120, lambda t: stats.poisson(t).pmf, lambda x, t: x / t - 1),
    "Binomial": (
        lambda t: dist.Binomial(N, probs=t), P, N + 1, lambda t: stats.binom(N, t).pmf,
        lambda x, t: (x - N * t) / (t * (1 - t)),
    ),
    "Binomial by logits": (
        lambda t: dist.Binomial(N, logits=t), scipy.special.logit(P), N + 1,
        lambda t: stats.binom(N, scipy.special.expit(t)).pmf, lambda x, t: x - N * scipy.special.expit(t),
    ),
    "Geometric": (
        lambda t: dist.Geometric(probs=t), P, 900, lambda t: lambda x: t * (1 - t) ** x,
        lambda x, t: 1 / t - x / (1 - t),
    ),
    "Geometric by logits": (
        lambda t: dist.Geometric(logits=t), scipy.special.logit(P), 900,
        lambda t: stats.geom(scipy.special.expit(t), loc=-1).pmf, lambda x, t: 1 - (x + 1) * scipy.special.expit(t),
    ),
    "NegativeBinomial": (
        lambda t: dist.NegativeBinomial(R, probs=t), P, 900, lambda t: stats.nbinom(R, 1 - t).pmf,
        lambda x, t: x / t - R / (1 - t),
    ),
    "NegativeBinomial by logits": (
        lambda t: dist.NegativeBinomial(R, logits=t), scipy.special.logit(P), 900,
        lambda t: stats.nbinom(R, scipy.special.expit(-t)).pmf, lambda x, t: x - (x + R) * scipy.special.expit(t),
    ),
    "NegativeBinomial2": (
        lambda t: dist.NegativeBinomial2(t, R), RATES, 900, lambda t: stats.nbinom(R, R / (R + t)).pmf,
        lambda x, t: x / t - (x + R) / (R + t),
    ),
}  # fmt: skip


def at(q, samples):
    """`q` with the given samples."""
    q.sample = lambda key, shape: samples
    return q


@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_by_a_sum_over_all_values(name, x64):
    """At three parameters and for five functions, which also use the parameter, to 1e-9. A ratio of another value of x
    would be off by more than 1e-2."""
    build, thetas, count, pmf, score = FAMILIES[name]
    x = np.arange(count)

    def estimate(i, theta, weight):
        f = lambda t: lambda x: jax.lax.switch(i, FUNCTIONS, x * 1.0) * (1 + t)
        return weight @ jax.jacfwd(lambda t: go(f(t), at(build(t), jnp.asarray(x)), KEY, count))(theta)

    weights = np.stack([pmf(t)(x) for t in thetas])
    each = jax.vmap(jax.vmap(estimate, (0, None, None)), (None, 0, 0))
    found = jax.jit(lambda: each(jnp.arange(len(FUNCTIONS)), jnp.asarray(thetas), jnp.asarray(weights)))()
    values = np.stack([x, x**2, np.sqrt(x + 1), np.sin(x), x > 2]).astype(float)
    truth = [[w @ (g * score(x, t) * (1 + t) + g) for g in values] for t, w in zip(thetas, weights, strict=True)]
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-9)


def slope_by_sums(pmf, score, x):
    """`-dF(x)/dtheta / q(x)` as an exact sum of fractions."""
    return float(-sum(pmf(k) * score(k) for k in range(x + 1)) / pmf(x))


@pytest.mark.parametrize("p", [Fraction(1, 20), Fraction(1, 2), Fraction(9, 10)])
def test_the_ratios_in_both_tails_in_32_bits(p):
    """To 1e-6, down to probabilities of 1e-60, which are 0 in 32 bits."""
    r, trials = 3, 50
    t = np.float32(p)
    p = Fraction(float(t))
    cases = [
        (dist.Binomial(trials, probs=t), lambda k: comb(trials, k) * p**k * (1 - p) ** (trials - k),
         lambda k: (k - trials * p) / (p * (1 - p)), (0, 1, 25, 49, 50)),
        (dist.Geometric(probs=t), lambda k: p * (1 - p) ** k, lambda k: 1 / p - k / (1 - p), (0, 1, 60)),
        (dist.NegativeBinomial(r, probs=t), lambda k: comb(k + r - 1, k) * p**k * (1 - p) ** r,
         lambda k: k / p - r / (1 - p), (0, 1, 50)),
    ]  # fmt: skip
    for q, pmf, score, values in cases:
        got = ratios(q, jnp.asarray(values, jnp.float32), KEY)["probs"][1]
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, [slope_by_sums(pmf, score, k) for k in values], rtol=1e-6, err_msg=str(q))


@pytest.mark.parametrize("a", [0.3, 4.0])
def test_the_ratio_of_the_concentration(a, monkeypatch, x64):
    """The mean over the rate behind x, by Gauss's rule, against differences of the distribution function, to 1e-6."""
    b, x, step = 0.7, np.array([0.0, 1.0, 5.0, 20.0]), 1e-4
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2
    u, w = u**3 * (10 - 15 * u + 6 * u**2), weights / 2 * 30 * (u * (1 - u)) ** 2  # more nodes at both ends
    points = scipy.special.gammaincinv(a + x, u[:, None])
    monkeypatch.setattr(jax.random, "gamma", lambda key, shape: jnp.asarray(points))
    got = w @ ratios(dist.GammaPoisson(a, b), jnp.broadcast_to(x, points.shape), KEY)["concentration"][1]
    cdf = lambda a: stats.nbinom(a, b / (1 + b)).cdf(x)
    want = -(cdf(a + step) - cdf(a - step)) / (2 * step) / stats.nbinom(a, b / (1 + b)).pmf(x)
    np.testing.assert_allclose(got, want, rtol=1e-5)


class Tilted:
    """0, 1, 2, 3 with probabilities proportional to exp(t x): a user's own class, with a cdf and without a support."""

    has_rsample, batch_shape, event_shape = False, (), ()

    def __init__(self, t, samples=None):
        self.p, self.samples = jax.nn.softmax(t * jnp.arange(4.0)), samples

    def sample(self, key, shape):
        return jax.random.categorical(key, jnp.log(self.p), shape=shape) if self.samples is None else self.samples

    def log_prob(self, x):
        return jnp.log(self.p)[x.astype(int)]

    def cdf(self, x):
        return jnp.cumsum(self.p)[x.astype(int)]


def test_the_end_of_the_support(x64):
    """f(x + 1) is nan there and has the weight 0, also in the derivative of f's own parameter. Exactly, to 1e-9."""
    x = jnp.arange(4)
    builds = {
        "Binomial": lambda t: at(dist.Binomial(3, logits=t), x),
        "own": lambda t: Tilted(t, x),
    }

    def estimate(build, p, t):
        f = lambda t: lambda x: t * jnp.sqrt(3.0 - x) + jnp.arange(4.0)[x]
        return p(t) @ jax.jacfwd(lambda t: rgrad_terms(f(t), build(t)))(t)

    rgrad_terms = lambda f, q: go(f, q, KEY, 4)
    probabilities = {
        "Binomial": lambda t: jnp.array([comb(3, k) for k in range(4)]) * jax.nn.sigmoid(t) ** x * jax.nn.sigmoid(-t) ** (3 - x),
        "own": lambda t: jax.nn.softmax(t * x),
    }  # fmt: skip
    exact = lambda t, p: p(t) @ (t * jnp.sqrt(3.0 - x) + x)
    for name, build in builds.items():
        p = probabilities[name]
        got, want = jax.jit(lambda t: (estimate(build, p, t), jax.grad(exact)(t, p)))(0.4)
        np.testing.assert_allclose(got, want, rtol=1e-9, err_msg=name)


def test_vectors_exactly(x64):
    """Three Binomials of different lengths, with an interaction, over all 24 values, to 1e-9."""
    counts = np.array([1, 3, 2])
    x = jnp.asarray(list(np.ndindex(2, 4, 3)))
    f = lambda x: jnp.sin(x[0] + 2 * x[1]) * x[2] + x[1] ** 2
    q = lambda a: dist.Binomial(counts, logits=a).to_event(1)

    def loss(a):
        weight = jax.lax.stop_gradient(jnp.exp(jax.vmap(q(a).log_prob)(x)))
        inner = at(dist.Binomial(counts, logits=a), x)
        return weight @ go(f, inner.to_event(1), KEY, len(x))

    exact = lambda a: rgrad.expect(f, q(a), KEY, 1, rgrad.enumerated)
    a = jnp.array([0.3, -0.8, 0.5])
    np.testing.assert_allclose(*jax.jit(lambda: (jax.grad(loss)(a), jax.grad(exact)(a)))(), rtol=1e-9)


CASES = {  # distribution, parameters, f, and the gradient of E[f]
    # E[x] is 1/p - 1.
    "vector of Geometrics": (
        lambda t: dist.Geometric(probs=t).to_event(1), [0.6, 0.5], lambda x: x[0] * x[1], [-1 / 0.6**2, -(1 / 0.6 - 1) / 0.5**2]
    ),
    # E[x^2] is t + t^2, and N p (1 - p) + N^2 p^2.
    "Poisson": (lambda t: dist.Poisson(t[0]), [1.5], lambda x: x**2, [1 + 2 * 1.5]),
    "Binomial": (lambda t: dist.Binomial(5, probs=t[0]), [0.3], lambda x: x**2, [5 * (1 - 2 * 0.3) + 50 * 0.3]),
    # a/b + (a + a^2)/b^2
    "GammaPoisson": (
        lambda t: dist.GammaPoisson(t[0], t[1]), [2.0, 1.5], lambda x: x**2, [1 / 1.5 + 5 / 2.25, -2 / 2.25 - 12 / 1.5**3]
    ),
    # m + m^2 + m^2/a
    "NegativeBinomial2": (lambda t: dist.NegativeBinomial2(t[0], t[1]), [1.2, 2.0], lambda x: x**2, [1 + 2.4 + 1.2, -1.44 / 4]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if "vector" in name else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_what_numpyro_draws(name):
    """Its own noise, also that of the concentration, and that of f. Catches 0.25, in gradients of 0.4 to 17."""
    build, at, f, truth = CASES[name]
    noisy = lambda x, key: f(x) + jax.random.normal(key)
    draw = lambda key: jax.grad(lambda t: rgrad.expect(noisy, build(t), key, 10, go, keyed=True))(jnp.array(at))
    assert_unbiased(draw, np.array(truth), smallest_bias=0.25, replicates=10_000)


def test_at_the_ends():
    """Right at a rate of 0 and at p = 0. At p = 1 the values that determine the gradient are never drawn: nan."""
    line = lambda x: 3.0 * x + 1
    grad = lambda build, t, f=line: jax.grad(lambda t: rgrad.expect(f, build(t), KEY, 1000, go))(t)
    binomial = lambda p: dist.Binomial(5, p)

    @jax.jit
    def all_of_them(zero, one):
        at_ends = grad(dist.Poisson, zero), grad(binomial, zero), grad(dist.Geometric, one), grad(binomial, one)
        # For f = x, every sample of a Poisson gives the gradient 1. Large counts are squared as floats.
        each = jax.jacfwd(lambda t: go(lambda x: x, dist.Poisson(t), KEY, 50))(2.0 * one)
        return at_ends, each, grad(dist.Poisson, 1e5 * one, lambda x: x**2)

    at_ends, each, square = all_of_them(0.0, 1.0)
    np.testing.assert_allclose(at_ends, (3.0, 15.0, -3.0, np.nan), rtol=1e-6)
    assert np.all(each == 1.0)
    assert square == pytest.approx(2e5, rel=1e-3)  # ten standard errors


def test_it_refuses():
    expect = lambda q: rgrad.expect(jnp.sum, q, KEY, 4, go)
    for q, match in (
        (dist.Normal(0.0, 1.0), r"go has no rule for Normal .*; use reparameterized"),
        (dist.Bernoulli(0.3), r"go has no rule for Bernoulli .*; use score_function"),
        (dist.Categorical(jnp.ones(3) / 3), r"go has no rule for Categorical"),
        (rgrad.antithetic(dist.Binomial(3, 0.4)), r"go has no rule for antithetic\(Binomial\)"),
    ):
        with pytest.raises(NotImplementedError, match=match):
            expect(q)
        assert not rgrad.ESTIMATORS["go"].applies(q)
    with pytest.raises(ValueError, match=r"batch_shape \(2,\)"):
        expect(dist.Poisson(jnp.ones(2)))
    for q in (dist.Poisson, lambda t: Tilted(t), lambda t: dist.GammaPoisson(t, t)):
        with pytest.raises(NotImplementedError, match=r"go: its gradient is right to first order only.* use score"):
            jax.eval_shape(jax.grad(jax.grad(lambda t, q=q: expect(q(t)))), 0.7)
    row = rgrad.ESTIMATORS["go"]
    assert row.evaluations(dist.Poisson(jnp.ones(3)).to_event(1), 10) == 40
