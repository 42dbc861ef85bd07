"""Exact moments against closed forms (Mohamed et al. 2020, Gal 2016, the post), and None if they are unknown."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats

import rgrad

leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


def normal(f, loc=1.0, scale=1.0):
    return SimpleNamespace(
        distribution=lambda p: dist.Normal(p["loc"], p["scale"]), objective=lambda p, x: f(x),
        params={"loc": loc, "scale": scale},
    )  # fmt: skip


def test_the_post():
    square = normal(lambda x: x**2, loc=2.0)
    for estimator, variance in ((rgrad.score_function, 87.0), (rgrad.reparameterized, 4.0)):
        exact = rgrad.exact_moments(square, estimator, wrt=["loc"])
        assert exact.mean["loc"] == pytest.approx(4.0, rel=1e-12)
        for n in (1, 10, 100_000):
            assert exact.variance(n)["loc"] == pytest.approx(variance / n, rel=1e-9)
        assert list(exact.mean) == ["loc"]


@pytest.mark.parametrize("k", [0.0, 1.0, *(pytest.param(k, marks=pytest.mark.long) for k in (-3.0, 2.5))])
def test_mohamed_et_al(k):
    """Costs (x - k)^2 at N(1, 1), d = 1 - k: section 3 and figure 2, for the mean and the scale."""
    d = 1 - k
    problem = normal(lambda x: (x - k) ** 2)
    mean_baseline = partial(rgrad.score_function, baseline=d**2 + 1)
    forms = {
        rgrad.score_function: (d**4 + 14 * d**2 + 15, 2 * d**4 + 60 * d**2 + 74),
        mean_baseline: (8 * d**2 + 10, 40 * d**2 + 56),
        rgrad.reparameterized: (4, 4 * d**2 + 8),
    }
    for estimator, (loc, scale) in forms.items():
        exact = rgrad.exact_moments(problem, estimator)
        assert exact.mean == {"loc": pytest.approx(2 * d, abs=1e-12), "scale": pytest.approx(2.0)}
        assert exact.per_sample == {"loc": pytest.approx(loc), "scale": pytest.approx(scale)}
        assert exact.per_pair == {"loc": 0.0, "scale": 0.0}
    # Leave-one-out equals the mean baseline to first order in 1/n, and also has a part per pair.
    exact = rgrad.exact_moments(problem, leave_one_out)
    assert exact.per_sample == {"loc": pytest.approx(8 * d**2 + 10), "scale": pytest.approx(40 * d**2 + 56)}
    assert exact.per_pair["loc"] > 0
    assert np.isinf(exact.variance(1)["loc"])


def test_leave_one_out_against_enumeration_of_calls():
    """The variance of whole calls with three samples of a Bernoulli, over all eight outcomes."""
    problem = SimpleNamespace(
        distribution=lambda p: dist.Bernoulli(probs=p["p"]), objective=lambda p, x: (x - 0.45) ** 2, params={"p": 0.3}
    )
    exact = rgrad.exact_moments(problem, leave_one_out)
    bits = np.indices((2, 2, 2)).reshape(3, -1).T
    score, f = np.where(bits, 1 / 0.3, -1 / 0.7), (bits - 0.45) ** 2
    estimate = ((f - (f.sum(1, keepdims=True) - f) / 2) * score).mean(1)
    p = np.where(bits, 0.3, 0.7).prod(1)
    mean = p @ estimate
    assert exact.mean["p"] == pytest.approx(mean)
    assert exact.variance(3)["p"] == pytest.approx(p @ (estimate - mean) ** 2)


def test_gal_when_reinforce_wins():
    sine = normal(lambda x: jnp.sin(10 * x), loc=0.0)
    score, path = (rgrad.exact_moments(sine, e).per_sample for e in (rgrad.score_function, rgrad.reparameterized))
    assert score == {"loc": pytest.approx(0.5), "scale": pytest.approx(1.0)}
    assert path == {"loc": pytest.approx(50.0), "scale": pytest.approx(50.0)}


@pytest.mark.parametrize("full", [True, pytest.param(False, marks=pytest.mark.long)])
def test_two_dimensions(full):
    """|x|^2/2 at N(mu, I): score in loc_i, with f = (mu . e) + ..., against a separate tensor Gauss-Hermite rule."""
    loc = jnp.array([1.0, -0.5])
    problem = SimpleNamespace(
        distribution=lambda p: dist.MultivariateNormal(p["loc"], scale_tril=jnp.eye(2)) if full else dist.Normal(p["loc"], 1.0).to_event(1),
        objective=lambda p, x: 0.5 * jnp.sum(x**2), params={"loc": loc},
    )  # fmt: skip
    exact = rgrad.exact_moments(problem, rgrad.score_function)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    e = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1)
    w = np.outer(weights, weights) / (2 * np.pi)
    g = 0.5 * ((np.asarray(loc) + e) ** 2).sum(-1, keepdims=True) * e
    mean = np.einsum("ij,ijk->k", w, g)
    np.testing.assert_allclose(exact.mean["loc"], mean, atol=1e-10)
    np.testing.assert_allclose(exact.per_sample["loc"], np.einsum("ij,ijk->k", w, (g - mean) ** 2), rtol=1e-9)


def median_of_the_others(values):
    n = len(values)
    return jnp.nanmedian(jnp.where(jnp.eye(n, dtype=bool), jnp.nan, values), axis=1)


def fresh_baseline(f, q, key, n):
    """Unbiased, but it draws twice, and both draws would get the same nodes."""
    other = jax.vmap(f)(q.sample(jax.random.fold_in(key, 1), (n,)))
    return rgrad.score_function(f, q, key, n, baseline=jax.lax.stop_gradient(other))


class Doubled(dist.Normal):
    def rsample(self, key, shape=()):
        return 2 * super().rsample(key, shape)


def test_a_small_variance_beside_a_large_mean():
    narrow = rgrad.exact_moments(normal(lambda x: x**2, scale=1e-6), rgrad.reparameterized, wrt=["loc"])
    assert narrow.per_sample["loc"] == pytest.approx(4e-12, rel=1e-6)
    steep = rgrad.exact_moments(normal(lambda x: 1e6 * x + x**2 / 2), rgrad.reparameterized, wrt=["loc"])
    assert steep.per_sample["loc"] == pytest.approx(1.0, rel=1e-6)


def keyed_noise(f, q, key, n):
    return rgrad.score_function(f, q, key, n) + jax.random.normal(key, (n,)) * q.loc


@pytest.mark.parametrize(
    ("problem", "estimator"),
    [
        (normal(lambda x: x > 0), rgrad.score_function),  # quadrature does not converge on a step
        (normal(lambda x: jnp.exp(x**2 / 3)), rgrad.score_function),  # an infinite variance
        (normal(lambda x: x**2), partial(rgrad.score_function, baseline=lambda v: jnp.roll(v, 1))),  # not exchangeable
        (normal(lambda x: x**2), lambda f, q, k, n: rgrad.surrogate(jax.vmap(f)(q.sample(k, (n,))), jnp.zeros(n)) * n),
        (normal(lambda x: x**2), keyed_noise),  # it has its own noise
        (normal(lambda x: x**2), partial(rgrad.score_function, baseline=median_of_the_others)),
        (normal(lambda x: x**2), fresh_baseline),
        (normal(lambda x: jnp.abs(x - 2.03)), rgrad.reparameterized),
        (normal(lambda x: jnp.cos(2 * jnp.pi * x / 0.075)), rgrad.reparameterized),  # periodic with the step of the nodes
        (SimpleNamespace(distribution=lambda p: Doubled(p["m"], 1.0), objective=lambda p, x: x**2, params={"m": 1.0}), rgrad.reparameterized),
        (SimpleNamespace(distribution=lambda p: dist.SoftLaplace(p["a"], 1.0), objective=lambda p, x: x, params={"a": 2.0}), rgrad.reparameterized),
        (SimpleNamespace(distribution=lambda p: dist.Poisson(p["a"]).expand((1,)).to_event(1), objective=lambda p, x: x.sum(), params={"a": 2.0}), rgrad.score_function),
        (SimpleNamespace(distribution=lambda p: dist.Normal(p["m"], 1.0).to_event(1), objective=lambda p, x: x.sum(), params={"m": jnp.zeros(3)}), rgrad.reparameterized),
    ],
    ids=["step", "heavy", "rolled", "no U-statistic", "own noise", "median", "second draw", "kink", "in step", "subclass", "no rule", "a vector of counts", "three dimensions"],
)  # fmt: skip
def test_unknown_is_none(problem, estimator):
    assert rgrad.exact_moments(problem, estimator) is None


def test_bad_input():
    problem = normal(lambda x: x)
    with pytest.raises(ValueError, match="exact_moments: unknown parameter 'lok'; this problem has loc, scale"):
        rgrad.exact_moments(problem, rgrad.score_function, {"lok": 1.0})
    with pytest.raises(ValueError, match="unknown parameter 'x'"):
        rgrad.exact_moments(problem, rgrad.score_function, wrt=["x"])
    with pytest.raises(ValueError, match=r"exact_moments: Normal has batch_shape \(2,\)"):
        rgrad.exact_moments(problem, rgrad.score_function, {"loc": jnp.zeros(2)})


def test_a_logit_of_exactly_zero():
    """NumPyro's derivative of the density is off by 1/2: d/dl E[(b - t)^2] = p (1 - p) ((1 - t)^2 - t^2) = 0.025."""

    problem = SimpleNamespace(
        params={"logit": 0.0},
        distribution=lambda p: dist.Bernoulli(logits=p["logit"]),
        objective=lambda p, x: (x - 0.45) ** 2,
    )
    assert rgrad.exact_moments(problem, rgrad.score_function).mean["logit"] == pytest.approx(0.025)


def of(make, t, f=lambda x: x**2):
    return SimpleNamespace(distribution=lambda p: make(p["t"]), objective=lambda p, x: f(x), params={"t": t})


SCALES = {  # x = s e: the family, E[e^2] and E[e^4]
    "Laplace": (lambda s: dist.Laplace(0.0, s), 2, 24),
    "Logistic": (lambda s: dist.Logistic(0.0, s), np.pi**2 / 3, 7 * np.pi**4 / 15),
    "Exponential": (lambda s: dist.Exponential(1 / s), 2, 24),
    "HalfNormal": (lambda s: dist.HalfNormal(s), 1, 3),
    "Uniform": (lambda s: dist.Uniform(0.0, s), 1 / 3, 1 / 5),
    "Weibull": (lambda s: dist.Weibull(s, 2.0), 1, 2),
    "Gamma": (lambda s: dist.Gamma(3.0, 1 / s), 12, 360),
    "Gamma with a small shape": (lambda s: dist.Gamma(0.2, 1 / s), 0.24, 0.2 * 1.2 * 2.2 * 3.2),
    "an affine map": (lambda s: dist.TransformedDistribution(dist.Laplace(0.0, 0.5), dist.transforms.AffineTransform(0.0, 2 * s)), 2, 24),
}  # fmt: skip


QUICK = ("Laplace", "Gamma", "an affine map")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in SCALES]
)
def test_scale_families(name):
    """E[x^2] = s^2 E[e^2]: the pathwise gradient is 2 s e^2. The score function has the same mean."""
    make, second, fourth = SCALES[name]
    path = rgrad.exact_moments(of(make, 0.7), "reparameterized")
    assert path.mean["t"] == pytest.approx(1.4 * second, rel=1e-9)
    assert path.per_sample["t"] == pytest.approx(1.4**2 * (fourth - second**2), rel=1e-9)
    score = rgrad.exact_moments(of(make, 0.7), "score_function")
    if name == "Uniform":  # its support moves
        assert score is None
    else:
        assert score.mean["t"] == pytest.approx(1.4 * second, rel=1e-9)


def by_sum(p, score, f):
    x = np.arange(len(p))
    g = f(x) * score(x)
    return p @ g, p @ (g - p @ g) ** 2


@pytest.mark.parametrize(("make", "p", "score"), [
    (dist.Poisson, scipy.stats.poisson(0.7).pmf, lambda x: x / 0.7 - 1),
    (dist.Geometric, scipy.stats.geom(0.7, loc=-1).pmf, lambda x: 1 / 0.7 - x / 0.3),
    (lambda t: dist.NegativeBinomialProbs(3.0, t), scipy.stats.nbinom(3.0, 0.3).pmf, lambda x: x / 0.7 - 3 / 0.3),
], ids=["Poisson", "Geometric", "NegativeBinomial"])  # fmt: skip
def test_counts_without_an_upper_bound(make, p, score):
    """JAX's log-beta function, which NumPyro uses for a NegativeBinomial, has an error of about 1e-7 in 64 bits."""
    exact = rgrad.exact_moments(of(make, 0.7), "score_function")
    found = float(exact.mean["t"]), float(exact.per_sample["t"])
    np.testing.assert_allclose(
        found,
        by_sum(p(np.arange(400)), score, np.square),
        rtol=1e-6 if make not in (dist.Poisson, dist.Geometric) else 1e-9,
    )


def test_vectors_with_a_finite_support():
    """Each in two forms: Binomial and Multinomial, Categorical and one-hot, two bits and four classes."""
    table = jnp.array([0.3, -1.0, 2.0])
    logits = lambda t: jnp.stack([t, jnp.asarray(0.5), -t])
    bits = lambda t: dist.Bernoulli(probs=jnp.stack([t, 0.5 * t])).to_event(1)
    classes = lambda t: dist.Categorical(
        probs=jnp.stack([(1 - t) * (1 - t / 2), (1 - t) * t / 2, t * (1 - t / 2), t * t / 2])
    )
    pairs = [
        (of(lambda t: dist.Binomial(4, t), 0.3), of(lambda t: dist.Multinomial(4, jnp.stack([t, 1 - t])), 0.3, lambda x: x[0] ** 2)),
        (of(lambda t: dist.Categorical(logits=logits(t)), 0.3, lambda x: table[x]),
         of(lambda t: rgrad.OneHotCategorical(logits(t)), 0.3, lambda x: table @ x)),
        (of(classes, 0.3, lambda x: 1.0 * x), of(bits, 0.3, lambda x: 2.0 * x[0] + x[1])),
    ]  # fmt: skip
    for one, other in pairs:
        a, b = (rgrad.exact_moments(problem, leave_one_out) for problem in (one, other))
        for x, y in zip(a, b, strict=True):
            assert x["t"] == pytest.approx(y["t"], rel=1e-9)
    large = of(lambda t: dist.Bernoulli(probs=t * jnp.ones(10)).to_event(1), 0.3, jnp.sum)
    assert rgrad.exact_moments(large, "score_function") is None  # 1024 values


def test_a_mixture():
    """E[x^2] = sum_k w_k (m_k^2 + s^2), and the variance by adaptive quadrature."""
    w, m, s = np.array([0.3, 0.7]), np.array([0.0, 2.0]), 0.7
    mix = lambda s: dist.MixtureSameFamily(dist.Categorical(probs=jnp.asarray(w)), dist.Normal(jnp.asarray(m), s))
    exact = rgrad.exact_moments(of(mix, s), "score_function")
    each = lambda x: w * scipy.stats.norm(m, s).pdf(x)
    g = lambda x: x**2 * each(x) @ ((x - m) ** 2 / s**3 - 1 / s) / each(x).sum()
    second = scipy.integrate.quad(lambda x: each(x).sum() * g(x) ** 2, -8, 10, epsabs=1e-12, epsrel=1e-12, limit=500)[0]
    assert exact.mean["t"] == pytest.approx(2 * s, rel=1e-9)
    assert exact.per_sample["t"] == pytest.approx(second - (2 * s) ** 2, rel=1e-8)
    # x moves as its distribution function says: the derivative of F is -sum_k w_k z_k p_k(x), with z_k = (x - m_k) / s.
    path = rgrad.exact_moments(of(mix, s), "reparameterized")
    moves = lambda x: (x - m) / s @ each(x) / each(x).sum()
    second = scipy.integrate.quad(lambda x: each(x).sum() * (2 * x * moves(x)) ** 2, -8, 10, epsabs=1e-12, epsrel=1e-12, limit=500)[0]  # fmt: skip
    assert path.mean["t"] == pytest.approx(2 * s, rel=1e-9)
    assert path.per_sample["t"] == pytest.approx(second - (2 * s) ** 2, rel=1e-8)


def test_two_rules_of_an_integral_that_does_not_exist_disagree():
    assert rgrad.exact_moments(of(lambda t: dist.Cauchy(0.0, t), 0.7, jnp.abs), "score_function") is None
    assert rgrad.exact_moments(of(lambda t: dist.StudentT(4.0, 0.0, t), 0.7), "reparameterized") is None  # E[e^8]
    assert rgrad.exact_moments(of(lambda t: dist.Pareto(1.0, t), 2.0), "score_function") is None
    two = of(lambda t: dist.StudentT(t, 0.0, 1.0), 4.0, jnp.tanh)
    assert rgrad.exact_moments(two, "reparameterized") is None  # df moves the samples by two numbers of noise


TWO = np.array([-1.0, 1.0])
MEASURED = {
    "Gamma": (lambda t: dist.Gamma(t, 1.3), lambda x: x**2),
    "InverseGamma": (lambda t: dist.InverseGamma(2.0 + t, t), lambda x: 1 / (1 + x)),
    "Beta": (lambda t: dist.Beta(t, 2.0), lambda x: x**2),
    "Dirichlet": (lambda t: dist.Dirichlet(jnp.stack([1 + t, 2 * t])), lambda x: x[0] ** 3),
    "two Gammas": (lambda t: dist.Gamma(jnp.stack([t, 2 + t]), 1.0).to_event(1), lambda x: x[0] ** 2 * x[1]),
    "Kumaraswamy": (lambda t: dist.Kumaraswamy(1 + t, 2.0), lambda x: x**2),
    "VonMises": (lambda t: dist.VonMises(t, 1 + t), jnp.sin),
    "StudentT": (lambda t: dist.StudentT(4.0, t, 1.3), jnp.tanh),
    "Cauchy": (lambda t: dist.Cauchy(t, 1.3), lambda x: 1 / (1 + x**2)),
    "Gumbel": (lambda t: dist.Gumbel(t, 1.3), jnp.sin),
    "LogNormal": (lambda t: dist.LogNormal(t, 0.5), lambda x: x**2),
    "a mixture": (
        lambda t: dist.MixtureSameFamily(dist.Categorical(logits=jnp.stack([t, 0 * t])), dist.Normal(TWO, jnp.exp(t))),
        jnp.sin,
    ),
    "a scaled Beta": (
        lambda t: dist.TransformedDistribution(dist.Beta(t, 2.0), dist.transforms.AffineTransform(0.0, 3.0)),
        jnp.sin,
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("estimator", ["reparameterized", "score_function"])
@pytest.mark.parametrize("name", MEASURED)
def test_measured_moments_are_the_exact_ones(name, estimator):
    """Of 200,000 calls with three samples. A mean that is off by 6 standard errors fails: once in 5e8 correct ones."""
    problem = of(MEASURED[name][0], 0.7, MEASURED[name][1])
    exact = rgrad.exact_moments(problem, estimator)
    draw = jax.grad(lambda t, key: rgrad.expect(MEASURED[name][1], MEASURED[name][0](t), key, 3, estimator))
    found = rgrad.measure(partial(draw, 0.7), jax.random.key(1), 200_000)
    assert abs(found.mean - exact.mean["t"]) <= 6 * found.standard_error
    low, high = found.variance_interval(1 - 1e-8)
    assert low <= exact.variance(3)["t"] <= high
