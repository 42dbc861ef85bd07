"""ReinMax and Gumbel-Rao: where they are exact, their bias otherwise, and their noise. Exact sums in 64 bits."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.integrate import quad
from scipy.special import expit, logit

import rgrad
from rgrad.estimators.gumbel_rao import gumbel_rao
from rgrad.estimators.reinmax import reinmax
from rgrad.estimators.relaxed import straight_through
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
P = np.array([0.05, 0.2, 0.3, 0.8])


@pytest.fixture
def noise(monkeypatch):
    """`noise(name, nodes, ...)`: the next calls of `jax.random.name` return these nodes, in turn."""

    def use(name, *nodes):
        left = list(nodes)

        def given(key, shape, dtype):
            assert left[0].shape == shape, (left[0].shape, shape)
            return left.pop(0)

        monkeypatch.setattr(jax.random, name, given)

    return use


# ReinMax.

SAME = np.random.default_rng(0).normal(size=(6, 6))


def test_reinmax_is_exact_for_quadratics_of_categories(noise, x64):
    """One-hot vectors of 2, 3 and 6 classes, each drawn in turn: the gradient to 1e-12, also in a parameter of f."""

    def both(size):
        a, matrix = jnp.asarray(SAME[0, :size]), SAME[:size, :size]
        f = lambda a: lambda x: (1 + a[0]) * (x @ matrix @ x + 2 * x[0])
        noise("gumbel", 100.0 * jnp.eye(size))

        def mean(a):
            weights = jax.lax.stop_gradient(jax.nn.softmax(a))
            return weights @ reinmax(f(a), rgrad.OneHotCategorical(a), KEY, size)

        exact = lambda a: rgrad.expect(f(a), rgrad.OneHotCategorical(a), KEY, 1, rgrad.enumerated)
        return jax.grad(mean)(a), jax.grad(exact)(a)

    for got, want in jax.jit(lambda: [both(size) for size in (2, 3, 6)])():
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_reinmax_is_exact_for_quadratics_of_bits(noise, x64):
    """Two bits with an interaction, by probs and by logits: the gradient to 1e-12."""
    f = lambda x: 3 * x[0] * x[1] - x[0] ** 2 + (x[1] - 0.3) ** 2
    corners = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    p = jnp.array([0.2, 0.7])

    def both(build):
        noise("logistic", 100 * (2 * corners - 1))
        weights = jnp.where(corners == 1, p, 1 - p).prod(1)
        mean = lambda t: weights @ reinmax(f, build(t).to_event(1), KEY, 4)
        exact = lambda t: rgrad.expect(f, build(t).to_event(1), KEY, 1, rgrad.enumerated)
        return mean, exact

    pairs = [
        (both(lambda t: dist.Bernoulli(probs=t)), p),
        (both(lambda t: dist.Bernoulli(logits=t)), logit(np.asarray(p))),
    ]
    for (mean, exact), at in pairs:
        noise("logistic", 100 * (2 * corners - 1))
        got, want = jax.jit(lambda t, mean=mean, exact=exact: (jax.grad(mean)(t), jax.grad(exact)(t)))(jnp.asarray(at))
        np.testing.assert_allclose(got, want, atol=1e-12)


POWERS = {3: lambda x: x**3, 4: lambda x: x**4}


def test_the_bias_of_reinmax_is_that_of_the_trapezoidal_rule():
    """Sampled, for x^3 and x^4 at four p: the mean is 1.5 and 2 times the truth. Catches 0.01 in gradients of 0.05 to 0.32.

    The mean of straight-through is 3 p and 4 p times the truth. So ReinMax is worse for 1/6 < p < 1/2 (x^3), or for all
    p < 1/2 (x^4), and better for p = 0.8.
    """

    def draw(key):
        return {
            power: jax.vmap(lambda a, f=f: jax.grad(lambda a: rgrad.expect(f, dist.Bernoulli(logits=a), key, 50, reinmax))(a))(jnp.asarray(logit(P)))
            for power, f in POWERS.items()
        }  # fmt: skip

    truth = P * (1 - P)
    assert_unbiased(draw, {power: truth * power / 2 for power in POWERS}, smallest_bias=0.01, replicates=8_000)
    for power, worse in ((3, [False, True, True, False]), (4, [True, True, True, False])):
        of_reinmax, of_straight_through = abs(truth * (power / 2 - 1)), abs(truth * (power * P - 1))
        np.testing.assert_array_equal(of_reinmax > of_straight_through, worse)


def test_the_temperature_of_reinmax(noise, x64):
    """With a temperature T the slope of bit b is 2 r (1 - r) - p (1 - p) / 2, with r = (b + sigmoid(a / T)) / 2."""
    a, T, p = 0.7, 0.5, expit(0.7)
    r = (np.arange(2) + expit(a / T)) / 2
    want = np.array([1 - p, p]) @ ((2 * r * (1 - r) - p * (1 - p) / 2) * np.array([2.0, 5.0]))
    noise("logistic", jnp.array([-100.0, 100.0]))
    f = lambda x: 2 * x + 1.5 * x**2  # slopes 2 and 5
    terms = lambda a: reinmax(f, dist.Bernoulli(logits=a), KEY, 2, temperature=T)
    np.testing.assert_allclose(jnp.array([1 - p, p]) @ jax.jacfwd(terms)(a), want, rtol=1e-12)


# Gumbel-Rao.


@pytest.mark.parametrize("temperature", [0.5, pytest.param(1.0, marks=pytest.mark.long)])
def test_gumbel_rao_has_the_mean_of_straight_through(temperature, noise, x64):
    """One bit, by Gauss's rule over the noise and the noise given the bit, to 1e-8. The bias vanishes for linear f only."""
    x, w = np.polynomial.legendre.leggauss(40)
    p, a = 0.2, logit(0.2)
    edges = np.array([0.0, 1 - p, 1.0])
    u = np.concatenate([lo + (hi - lo) * (x + 1) / 2 for lo, hi in itertools.pairwise(edges)])
    wu = np.concatenate([(hi - lo) * w / 2 for lo, hi in itertools.pairwise(edges)])
    v, wv = (x + 1) / 2, w / 2
    us, vs = (g.ravel() for g in np.meshgrid(u, v, indexing="ij"))
    weights = np.outer(wu, wv).ravel()
    f = lambda x: (x + 1) ** 3
    noise("logistic", jnp.asarray(logit(us)), jnp.asarray(logit(vs)))
    estimator = partial(gumbel_rao, temperature=temperature, samples=1)
    got = weights @ jax.jacfwd(lambda a: estimator(f, dist.Bernoulli(logits=a), KEY, len(us)))(a)
    slope = lambda u: expit((a + logit(u)) / temperature) * expit(-(a + logit(u)) / temperature) / temperature
    want = 3 * quad(slope, 0, 1 - p, epsabs=1e-11)[0] + 12 * quad(slope, 1 - p, 1, epsabs=1e-11)[0]
    np.testing.assert_allclose(got, want, rtol=1e-8)
    assert abs(want - 7 * p * (1 - p)) > 0.05


NOISY = {
    "bits": (
        lambda a: dist.Bernoulli(logits=a).to_event(1), lambda x: jnp.sin(2 * x @ jnp.array([1.0, 2.0, 3.0])), logit(P[:3]),
    ),
    "one-hot": (rgrad.OneHotCategorical, lambda x: jnp.exp(x @ jnp.array([1.0, -2.0, 0.5])), np.array([0.3, -0.5, 0.1])),
}  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param("bits", marks=pytest.mark.long), "one-hot"])
def test_gumbel_rao_has_less_noise_than_straight_through(kind):
    """At two temperatures: the same mean, within 6 standard errors (less than 0.08), and a smaller variance, outside
    intervals at level 1 - 1e-7. With one noise the intervals overlap: the variance is the same."""
    build, f, a = NOISY[kind]
    estimators = {
        "st 0.2": partial(straight_through, temperature=0.2),
        "rao 0.2": partial(gumbel_rao, temperature=0.2),
        "st 1.0": partial(straight_through, temperature=1.0),
        "rao 1.0": partial(gumbel_rao, temperature=1.0),
        "one 1.0": partial(gumbel_rao, temperature=1.0, samples=1),
    }

    def draw(key):
        loss = lambda a, e, k: rgrad.expect(f, build(a), k, 4, e)
        keys = jax.random.split(key, len(estimators))
        return {
            name: jax.grad(loss)(jnp.asarray(a), e, k) for (name, e), k in zip(estimators.items(), keys, strict=True)
        }

    moments = rgrad.measure(draw, KEY, 10_000)
    low, high = moments.variance_interval(1 - 1e-7)
    for T in ("0.2", "1.0"):
        st, rao = f"st {T}", f"rao {T}"
        assert np.all(high[rao] < low[st]), T
        error = np.hypot(moments.standard_error[rao], moments.standard_error[st])
        assert np.all(np.abs(moments.mean[rao] - moments.mean[st]) <= 6 * error)
        assert np.all(6 * error <= 0.08)
    assert np.all((low["one 1.0"] < high["st 1.0"]) & (low["st 1.0"] < high["one 1.0"]))


@pytest.mark.parametrize("samples", [0, 2.0, True])
def test_the_number_of_noises(samples):
    with pytest.raises(ValueError, match="gumbel_rao: samples must be a Python int of at least 1"):
        rgrad.expect(lambda x: x, dist.Bernoulli(0.5), KEY, 2, partial(gumbel_rao, samples=samples))


@pytest.mark.parametrize("name", ["straight_through", "gumbel_softmax", "reinmax", "gumbel_rao"])
def test_indices_are_refused(name):
    """f has no values between indices. The error says what to use."""
    with pytest.raises(
        NotImplementedError, match=rf"{name}: the samples of Categorical are indices.*; use OneHotCategorical"
    ):
        rgrad.expect(lambda i: i * 1.0, dist.Categorical(logits=jnp.zeros(3)), KEY, 2, name)
    row = rgrad.ESTIMATORS[name]
    assert row.biased
    assert not row.compared
