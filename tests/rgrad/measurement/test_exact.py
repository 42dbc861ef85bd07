"""Exact moments against closed forms (Mohamed et al. 2020, Gal 2016, the post), and None if they are unknown."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

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


@pytest.mark.parametrize("k", [-3.0, 0.0, 1.0, 2.5])
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


@pytest.mark.parametrize("full", [True, False])
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
        (SimpleNamespace(distribution=lambda p: dist.Gamma(p["a"], 1.0), objective=lambda p, x: x, params={"a": 2.0}), rgrad.reparameterized),
        (SimpleNamespace(distribution=lambda p: dist.Poisson(p["a"]), objective=lambda p, x: x, params={"a": 2.0}), rgrad.score_function),
        (SimpleNamespace(distribution=lambda p: dist.Normal(p["m"], 1.0).to_event(1), objective=lambda p, x: x.sum(), params={"m": jnp.zeros(3)}), rgrad.reparameterized),
    ],
    ids=["step", "heavy", "rolled", "no U-statistic", "own noise", "median", "second draw", "kink", "in step", "subclass", "gamma", "poisson", "three dimensions"],
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
