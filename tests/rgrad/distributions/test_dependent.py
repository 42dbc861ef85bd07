"""Dependent draws: the distribution of each sample, the gain in variance, and the baselines that they would bias."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms

import rgrad
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.quantiles import quantile
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
DRAWS = {"antithetic": rgrad.antithetic, "stratified": rgrad.stratified, "quasi": rgrad.quasi}


@pytest.mark.parametrize("name", DRAWS)
def test_every_sample_has_the_distribution_of_q(name):
    """Mean, second and fourth moment and a tail of *each* sample of a call, in two dimensions. Catches 0.03 in the
    means, which are 0, 1, 3 and 0.0668."""
    q = DRAWS[name](dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def draw(key):
        x = q.sample(key, (6,))
        return {"x": x, "x^2": x**2, "x^4": x**4 / 10, "tail": x > 1.5}

    truth = {"x": 0.0, "x^2": 1.0, "x^4": 0.3, "tail": 0.0668072}
    draws = lambda key: jax.tree.map(lambda a: a.astype(float), draw(key))
    whole = jax.tree.map(lambda t: np.full((6, 2), t), truth)
    assert_unbiased(draws, whole, smallest_bias=0.03, replicates=200_000)


def test_what_they_are():
    """Pairs add up to twice the mean. One sample lies in each stratum, and for quasi draws in each 2-d box."""
    x = rgrad.antithetic(dist.Normal(3.0, 2.0)).sample(KEY, (8,))
    np.testing.assert_allclose(x[::2] + x[1::2], 6.0, rtol=1e-5)
    unit = dist.Uniform(jnp.zeros(2), 1.0).to_event(1)
    for draws in (rgrad.stratified, rgrad.quasi):
        u = np.asarray(draws(unit).sample(KEY, (16,)))
        assert all(set(np.floor(16 * column)) == set(range(16)) for column in u.T)
    assert {(a, b) for a, b in np.floor(4 * u)} == {(a, b) for a in range(4) for b in range(4)}


@pytest.mark.parametrize(("dtype", "eps"), [(jnp.float32, 2**-24), (jnp.float64, 2**-53)])
def test_uniforms_stay_inside(dtype, eps):
    """They avoid 0 and 1, where the quantile is infinite, and 1 - u is exact."""
    from rgrad.distributions.dependent import _inside

    with jax.enable_x64(dtype == jnp.float64):
        u = _inside(jnp.array([0.0, eps / 8, 0.3, 1 - eps, 1.0], dtype))
        assert np.all((u > 0) & (u < 1) & (1 - (1 - u) == u))
        assert np.all(np.isfinite(quantile(dist.Normal(0.0, 1.0), u)))


@pytest.mark.parametrize(
    "q",
    [
        lambda: dist.Bernoulli(probs=0.3), lambda: dist.Bernoulli(logits=jnp.array([0.3, -1.0])).to_event(1),
        lambda: dist.Binomial(3, 0.4),
        lambda: dist.LogNormal(0.3, 0.5), lambda: dist.Exponential(2.0), lambda: dist.Normal(0.0, 1.0).expand([2]).to_event(1),
        lambda: dist.MultivariateNormal(jnp.ones(2), jnp.array([[1.0, 0.5], [0.5, 2.0]])),
        lambda: dist.LowRankMultivariateNormal(jnp.ones(2), jnp.ones((2, 1)), jnp.ones(2)),
        lambda: dist.TruncatedNormal(0.5, 1.0, low=0.0), lambda: dist.Weibull(1.5, 2.0), lambda: dist.Kumaraswamy(2.0, 3.0),
    ],
)  # fmt: skip
def test_quantiles_give_the_mean_of_q(q):
    """The mean of 2^12 quasi-random samples is the mean of q, within 0.01. (The error is about O(1/n).)"""
    q = q()
    x = rgrad.quasi(q).sample(KEY, (4096,))
    assert x.shape == (4096, *q.event_shape)
    np.testing.assert_allclose(x.astype(float).mean(0), q.mean, atol=0.01)


def test_quantiles_of_a_categorical():
    """The frequencies of 2^12 samples are the probabilities, within 0.001."""
    q = dist.Categorical(logits=jnp.array([0.3, -0.5, 0.1]))
    shares = np.bincount(rgrad.quasi(q).sample(KEY, (4096,))) / 4096
    np.testing.assert_allclose(shares, q.probs, atol=1e-3)


def test_rows_of_an_event_are_not_mixed():
    """E sum_rows x_0 x_1 = 2 * 0.9 for two correlated normals as one event, in several notations, within 0.02."""
    low = jnp.array([[1.0, 0.0], [0.9, 0.3]])
    for q in (
        dist.MultivariateNormal(jnp.zeros(2), scale_tril=low).expand([2]).to_event(1),
        dist.MultivariateNormal(jnp.zeros((2, 2)), scale_tril=jnp.stack([low, low])).to_event(1),
    ):
        x = rgrad.quasi(q).sample(KEY, (4096,))
        assert x.shape == (4096, 2, 2)
        np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(1).mean(), 1.8, atol=0.02)
    expanded = dist.Categorical(logits=jnp.zeros(3)).expand([2]).to_event(1)
    assert rgrad.stratified(expanded).sample(KEY, (5,)).shape == (5, 2)
    sticks = dist.TransformedDistribution(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1), transforms.StickBreakingTransform()
    )
    with pytest.raises(NotImplementedError, match="use independent draws"):
        rgrad.quasi(sticks).sample(KEY, (4,))


def test_what_they_gain():
    """The pathwise gradient of E[(x_1 + x_2 + x_3)^2 / 4 + sin(x_1 x_2)] from 256 samples.

    The ratios of the variances over 2,000 calls to that of independent draws are about 0.36, 0.28 and 0.03. Each must
    be less than twice that, which leaves more than 10 standard errors (5 %).
    """

    def draw(key):
        def one(draws):
            q = lambda t: draws(dist.Normal(t, 1.0).expand([3]).to_event(1))
            f = lambda x: jnp.sum(x) ** 2 / 4 + jnp.sin(x[0] * x[1])
            return jax.grad(lambda t: rgrad.expect(f, q(t), key, 256))(1.0)

        return {name: one(draws) for name, draws in {**DRAWS, "independent": lambda q: q}.items()}

    variance = rgrad.measure(draw, KEY, 2_000).variance
    for name, most in (("antithetic", 0.7), ("stratified", 0.56), ("quasi", 0.06)):
        assert variance[name] < most * variance["independent"], (name, variance)


def test_leave_one_out_on_pairs_would_give_8_instead_of_4_and_is_refused():
    """E[x^2] at N(2, 1), n = 2: unchecked, it gives 8, not 4. Leaving out the whole pair is unbiased. Catches 0.2."""
    q = lambda t: rgrad.antithetic(dist.Normal(t, 1.0))
    loss = lambda t, key, n, estimator: rgrad.expect(lambda x: x**2, q(t), key, n, estimator)

    def unchecked(f, q, key, n):
        x = jax.lax.stop_gradient(q.sample(key, (n,)))
        return rgrad.surrogate(jax.vmap(f)(x), jax.vmap(q.log_prob)(x), rgrad.leave_one_out)

    assert_unbiased(lambda key: jax.grad(loss)(2.0, key, 2, unchecked), 8.0, smallest_bias=0.2, replicates=400_000)
    pairs = partial(rgrad.score_function, baseline=rgrad.leave_pair_out)
    assert_unbiased(lambda key: jax.grad(loss)(2.0, key, 4, pairs), 4.0, smallest_bias=0.2, replicates=400_000)
    with pytest.raises(ValueError, match=r"leave_one_out uses the other half of the pair .* use rgrad.leave_pair_out"):
        loss(2.0, KEY, 4, partial(rgrad.score_function, baseline=rgrad.leave_one_out))


REFUSED = [
    ("antithetic", lambda v: jnp.roll(v, 1), "uses the other half"),
    ("stratified", rgrad.leave_one_out, "depend on one another"),
    ("stratified", rgrad.leave_pair_out, "depend on one another"),
    ("quasi", rgrad.leave_one_out, "depend on one another"),
    ("quasi", rgrad.optimal, "depend on one another"),
]


@pytest.mark.parametrize(("name", "baseline", "match"), REFUSED)
@pytest.mark.parametrize("keyed", [False, True])
def test_baselines_of_dependent_values_are_refused(name, baseline, match, keyed):
    f = (lambda x, key: x) if keyed else (lambda x: x)
    estimator = partial(rgrad.score_function, baseline=baseline)
    with pytest.raises(ValueError, match=match):
        rgrad.expect(f, DRAWS[name](dist.Normal(0.0, 1.0)), KEY, 8, estimator, keyed=keyed)


WRAPPED = {
    "jax_random": rgrad.jax_random,
    "jax_random, twice": lambda q: rgrad.jax_random(rgrad.jax_random(q)),
    "one's own": lambda q: OfAnother(q),
    "one's own, in another": lambda q: rgrad.jax_random(OfAnother(q)),
}


class OfAnother:
    """A user's distribution that is not a pytree, and draws from another one."""

    has_rsample, batch_shape = True, ()

    def __init__(self, inner):
        self.inner, self.itself = inner, self
        self.sample, self.rsample, self.log_prob = inner.sample, inner.rsample, inner.log_prob


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("keyed", [False, True])
def test_dependent_draws_are_found_inside_anything(name, keyed):
    """A baseline of their values is then refused, and so is a bound of several samples."""
    q = WRAPPED[name](rgrad.antithetic(dist.Normal(0.0, 1.0)))
    f = (lambda x, key: x) if keyed else (lambda x: x)
    with pytest.raises(ValueError, match="leave_one_out uses the other half of the pair"):
        rgrad.expect(f, q, KEY, 8, partial(rgrad.score_function, baseline=rgrad.leave_one_out), keyed=keyed)
    with pytest.raises(ValueError, match=r"pass q itself, not antithetic\(q\)"):
        rgrad.iwae(lambda x: 0.0, q, KEY, 2)
    assert (
        dependent_draws(dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.zeros(2), 1.0)))
        is None
    )


def test_baselines_that_do_not_use_the_values_are_accepted():
    two_pairs_on = lambda v: jnp.roll(v, 2)
    for name, baseline in [("antithetic", two_pairs_on), ("antithetic", 2.0), ("quasi", rgrad.moving_average()), ("stratified", 1.0)]:  # fmt: skip
        estimator = partial(rgrad.score_function, baseline=baseline)
        rgrad.expect(lambda x: x, DRAWS[name](dist.Normal(0.0, 1.0)), KEY, 8, estimator)


def test_refusals():
    for estimator in (rgrad.reparameterized, partial(rgrad.score_function, baseline=rgrad.leave_one_out)):
        with pytest.raises(ValueError, match="antithetic: n = 5 is odd"):
            rgrad.expect(lambda x: x, rgrad.antithetic(dist.Normal(0.0, 1.0)), KEY, 5, estimator)
    with pytest.raises(
        NotImplementedError,
        match=r"draws need an inverse distribution function, and VonMises has none .* use independent draws",
    ):
        rgrad.expect(lambda x: x, rgrad.quasi(dist.VonMises(2.0, 1.0)), KEY, 4)
    with pytest.raises(ValueError, match=r"stratified: Normal has batch_shape \(2,\)"):
        rgrad.stratified(dist.Normal(jnp.zeros(2), 1.0))
    with pytest.raises(TypeError, match="quasi: q must be a distribution, got int"):
        rgrad.quasi(3)
    with pytest.raises(TypeError, match=r"needs q.rsample, and antithetic\(Bernoulli\) has none; use score_function"):
        rgrad.expect(lambda x: x, rgrad.antithetic(dist.Bernoulli(0.3)), KEY, 4)
    for estimator, name in ((rgrad.measure_valued, "measure_valued"), (rgrad.rejection, "rejection")):
        with pytest.raises(
            NotImplementedError, match=rf"{name} .* quasi\(Normal\) .*use reparameterized or score_function"
        ):
            rgrad.expect(lambda x: x, rgrad.quasi(dist.Normal(0.0, 1.0)), KEY, 4, estimator)
    with pytest.raises(NotImplementedError, match=r"draws need an .* and stratified\(Normal\) has none"):
        rgrad.quasi(rgrad.jax_random(rgrad.stratified(dist.Normal(0.0, 1.0))))
    with pytest.raises(ValueError, match="leave_pair_out: n = 2 leaves no other pair"):
        rgrad.leave_pair_out(jnp.ones(2))


def test_detached_draws_are_draws():
    q = rgrad.detach(rgrad.antithetic(dist.Normal(1.0, 2.0)))
    np.testing.assert_allclose(q.sample(KEY, (4,)), rgrad.antithetic(dist.Normal(1.0, 2.0)).sample(KEY, (4,)))


def test_common_random_numbers_are_the_same_key():
    """The difference of two expectations 0.1 apart, from 100 samples each.

    With one key its variance is 4 * 0.1^2 / 100; with two keys it is over a thousand times that. The limits, half and
    twice, are 100 standard errors of 20,000 calls away.
    """
    at = lambda t, key: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, 100)

    def draw(key):
        return {"same": at(2.1, key) - at(2.0, key), "other": at(2.1, key) - at(2.0, jax.random.fold_in(key, 1))}

    variance = rgrad.measure(draw, KEY, 20_000).variance
    assert 0.5 < variance["same"] / (4 * 0.1**2 / 100) < 2
    assert variance["other"] > 400 * variance["same"]
