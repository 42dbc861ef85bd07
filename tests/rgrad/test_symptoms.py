"""The chart in the README, and its table of symptoms, causes and cures. An example demonstrates every line."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from jax import lax
from jax.scipy.special import digamma
from scipy.stats import binom

import rgrad
from rgrad.measurement.moments import measure

KEY = jax.random.key(0)
leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


def mean_of(gradient, point, replicates):
    """The mean of many estimates and its standard error. A normal exceeds 6 standard errors with probability 2e-9."""
    moments = measure(lambda key: gradient(point, key), KEY, replicates)
    return float(moments.mean), float(moments.standard_error)


def zero():
    """Bernoulli(sigmoid(t)), f = (1, 3): `d/dt = 2 p (1 - p)` is 0.5 at t = 0. The cure is exact."""
    f = lambda x: 1 + 2 * x
    by_hand = lambda t: jnp.mean(f(dist.Bernoulli(logits=t).sample(KEY, (100,))))
    assert jax.grad(by_hand)(0.0) == 0
    loss = lambda t, estimator: rgrad.expect(f, dist.Bernoulli(logits=t), KEY, 100, estimator)
    assert jax.grad(loss)(0.0, rgrad.enumerated) == pytest.approx(0.5, rel=1e-6)
    assert jax.grad(loss)(0.0, leave_one_out) == pytest.approx(0.5, abs=0.05)  # 2 (k/n)(1 - k/n) n/(n - 1) for k heads
    with pytest.raises(TypeError, match="Bernoulli has none; use"):
        jax.grad(loss)(0.0, rgrad.reparameterized)


def nan():
    """x ~ Gamma(0.03, 1). Most samples are 0 in 32 bits. `E[x log x] = a psi(a + 1)`, with derivative -0.479.

    Catches an error of a tenth of that.
    """
    a = 0.03
    loss = lambda a, key, f: rgrad.expect(f, dist.Gamma(a, 1.0), key, 1000)
    assert np.isnan(jax.grad(loss)(a, KEY, lambda x: x * jnp.log(x)))
    cured = lambda a, key: loss(a, key, lambda x: x * jnp.log(jnp.maximum(x, 1e-30)))
    mean, error = mean_of(jax.grad(cured), a, 1000)
    truth = jax.grad(lambda a: a * digamma(a + 1))(a)
    assert 6 * error < abs(truth) / 10
    assert abs(mean - truth) < 6 * error


def shrunk():
    """E[x^2], x ~ N(2, 1), n = 4. The mean of all values loses a quarter of the gradient: 3, not 4. Catches 0.3."""

    def by_hand(t, key):
        x = lax.stop_gradient(dist.Normal(t, 1.0).sample(key, (4,)))
        return jnp.mean((x**2 - jnp.mean(x**2)) * dist.Normal(t, 1.0).log_prob(x))

    cured = lambda t, key: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, 4, leave_one_out)
    for loss, expected in ((by_hand, 3.0), (cured, 4.0)):
        mean, error = mean_of(jax.grad(loss), 2.0, 20_000)
        assert 6 * error < 0.3
        assert abs(mean - expected) < 6 * error
    baseline = partial(rgrad.score_function, baseline=lambda values: values.mean())
    with pytest.raises(ValueError, match="leave_one_out"):
        rgrad.expect(lambda x: x**2, dist.Normal(2.0, 1.0), KEY, 4, baseline)


def own():
    """E[t x^2], x ~ N(t, 1). The derivative of `t^3 + t` is 13 at 2. The score alone gives 8. Catches 0.7."""
    f = lambda t, x: t * x**2

    def by_hand(t, key):
        x = lax.stop_gradient(dist.Normal(t, 1.0).sample(key, (10,)))
        return jnp.mean(lax.stop_gradient(f(t, x)) * dist.Normal(t, 1.0).log_prob(x))

    cured = lambda t, key: rgrad.expect(partial(f, t), dist.Normal(t, 1.0), key, 10, rgrad.score_function)
    for loss, expected in ((by_hand, 8.0), (cured, 13.0)):
        mean, error = mean_of(jax.grad(loss), 2.0, 10_000)
        assert 6 * error < 0.7
        assert abs(mean - expected) < 6 * error


def wrong_place():
    """One bit and f = (b - 0.45)^2, smallest at b = 0 (0.2025). Straight-through stops at p = 0.45 (0.2475)."""
    f = lambda b: (b - 0.45) ** 2

    def loss_after(estimator):
        loss = lambda t, key: rgrad.expect(f, dist.Bernoulli(logits=t), key, 10, estimator)
        p = jax.nn.sigmoid(rgrad.fit(loss, 0.0, optax.adam(0.05), KEY, 1000).params)
        return float(p * f(1) + (1 - p) * f(0))

    assert loss_after(rgrad.straight_through) > 0.24
    assert loss_after(leave_one_out) < 0.21


def unsure():
    """A bit that a comparison decides: the gradient is 0 instead of 0.4, and the comparison explains it."""

    def loss(p, key):
        return (jnp.where(jax.random.uniform(key) < p, 1.0, 0.0) - 0.3) ** 2

    found = rgrad.audit(loss, 0.4, KEY, budget=2.0)
    assert found.verdict == "BIASED"
    assert (found.cuts[0].operation, found.cuts[0].line) == ("lt", loss.__code__.co_firstlineno + 1)


def no_effect():
    """Bernoulli with logit 0.8, reference 0.3: the mean gradients of k1 and k2 as losses are 0 and 0.35237, which is KL's."""
    log_p = lambda t: jax.nn.log_softmax(jnp.stack([jnp.zeros_like(t), t]))
    mean = lambda t, kind: lax.stop_gradient(jnp.exp(log_p(t))) @ rgrad.kl_penalty(log_p(t), jnp.log(jnp.array([0.7, 0.3])), kind)  # fmt: skip
    assert jax.grad(mean)(0.8, "k1") == pytest.approx(0, abs=1e-6)
    assert jax.grad(mean)(0.8, "k2") == pytest.approx(0.35237, abs=1e-5)


def weights_of_questions():
    """k = 16 answers, all groups by their number of successes: the gradient at p = 0.01 is 3.6 times too large, at 0.5 1.9."""
    k, counts = 16, np.arange(17)
    groups = np.where(np.arange(k) < counts[:, None], 1.0, 0.0)
    for options, expected in ((("mean", "std"), (3.614, 1.873)), ((), (1, 1))):
        a = rgrad.group_advantages(groups.ravel(), np.repeat(counts, k), *options).reshape(groups.shape)
        for p, factor in zip((0.01, 0.5), expected, strict=True):
            score = np.where(groups == 1, 1 / p, -1 / (1 - p))
            assert binom(k, p).pmf(counts) @ np.mean(a * score, 1) == pytest.approx(factor, abs=2e-3)


def short_answers():
    """A second token follows the first with probability 1/2, and pays 0.1 more: the gradient is 0.025, not -0.1."""
    rewards, lengths, slope = np.array([1.0, 1.1]), np.array([1, 2]), np.array([-0.5, 0.5])  # of log p, for its logit
    assert 0.5 * (rewards * slope).sum() == pytest.approx(0.025)
    assert 0.5 * (rewards * slope / lengths).sum() < -0.1


def nan_groups():
    """Equal rewards give advantages of 0, padding too, and the gradient is that of what is left."""
    rewards, groups, mask = (
        jnp.array([0.1, 0.1, 1.0, 0.0, jnp.nan]),
        np.array([0, 0, 1, 1, 1]),
        np.array([1, 1, 1, 1, 0]),
    )
    a = rgrad.group_advantages(rewards, groups, "mean", "std", ddof=0, mask=mask)
    np.testing.assert_allclose(a, [0, 0, 1, -1, 0], atol=1e-6)
    loss = lambda log_p: rgrad.surrogate(a, log_p, mask=mask).mean()
    np.testing.assert_allclose(jax.grad(loss)(rewards), [0, 0, 0.25, -0.25, 0], atol=1e-6)


SYMPTOMS = {
    "not sure whether a gradient is right, or why it is wrong": unsure,
    "the gradient is exactly 0, through a categorical or Bernoulli sample": zero,
    "the gradient of a Gamma, Beta or Dirichlet is nan at a small concentration": nan,
    "REINFORCE with the mean as its baseline: every gradient is too small": shrunk,
    "the gradient is wrong, and f depends on the parameters": own,
    "my KL term has no effect": no_effect,
    "GRPO favours very easy and very hard questions": weights_of_questions,
    "answers get too short, or long wrong ones survive": short_answers,
    "padding, or a group with equal rewards, gives nan": nan_groups,
    "straight-through converges, but to the wrong place": wrong_place,
}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_symptom_and_cure(symptom):
    SYMPTOMS[symptom]()


def test_each_line_of_the_table_is_shown():
    text = (Path(__file__).parent.parent.parent / "README.md").read_text()
    table = text.split("| symptom | cause | cure |")[1].split("\n\n")[0]
    assert re.findall(r"^\| ([^|-][^|]*?) \|", table, re.MULTILINE) == list(SYMPTOMS)


def test_the_chart():
    """One example per line: the recommended estimator has less variance per sample than the alternative.

    The required factor is at most half of the true one. Over 2,000 calls each variance is known to 10 %, so the margin
    is 5 standard errors or more. Where the reparameterization trick is wrong, it is off by 0.24, without any noise.
    """
    normal = lambda p: dist.Normal(p, 1.0)
    bits = lambda p: dist.Bernoulli(logits=jnp.full(6, p)).to_event(1)
    average = partial(rgrad.score_function, baseline=rgrad.moving_average(0.9).update(5.0))
    toy = lambda b: jnp.mean((b - 0.45) ** 2)
    wiggle = lambda x: jnp.sin(10 * x)
    step = lambda x: jnp.where(x > 1, 1.0, 0.0)
    lines = {  # q, its parameter, f, the recommended estimator, the alternative, n, the smallest ratio of the variances
        "few values": (lambda p: dist.Categorical(logits=p * jnp.arange(3.0)), 0.3, lambda x: 1.0 * x**2, rgrad.enumerated, leave_one_out, 4, 1e6),
        "bits, disarm": (bits, 0.0, toy, rgrad.disarm, rgrad.score_function, 10, 20),
        "bits, leave_one_out": (bits, 0.0, toy, leave_one_out, rgrad.score_function, 10, 20),
        "smooth": (normal, 2.0, lambda x: x**2, rgrad.reparameterized, leave_one_out, 10, 5),
        "wiggles": (normal, 0.0, wiggle, leave_one_out, rgrad.reparameterized, 10, 30),
        "n = 1": (normal, 2.0, lambda x: x**2, average, rgrad.score_function, 1, 1.3),
    }  # fmt: skip

    def elbo(p, key, entropy):
        return rgrad.elbo(normal(0.0).log_prob, dist.Normal(p, 1.1), key, 10, entropy=entropy)

    def draw(key):
        of = lambda q, p, f, estimator, n: jax.grad(lambda p: rgrad.expect(f, q(p), key, n, estimator))(p)
        found = {
            name: (of(q, p, f, named, n), of(q, p, f, other, n))
            for name, (q, p, f, named, other, n, _) in lines.items()
        }
        found["elbo"] = tuple(jax.grad(elbo)(0.1, key, entropy) for entropy in ("detached", "sampled"))
        jumps = (leave_one_out, rgrad.measure_valued, rgrad.reparameterized)
        return found, [of(normal, 0.0, step, estimator, 10) for estimator in jumps]

    moments = measure(draw, KEY, 2_000)
    variance, _ = moments.variance
    for name, factor in {**{name: line[-1] for name, line in lines.items()}, "elbo": 5}.items():
        named, other = variance[name]
        assert other > factor * named, (name, other / max(named, 1e-30))
    slope = float(jnp.exp(dist.Normal(0.0, 1.0).log_prob(1.0)))
    for mean, error in zip(moments.mean[1][:2], moments.standard_error[1][:2], strict=True):
        assert abs(mean - slope) < 6 * error < 0.1
    assert (moments.mean[1][2], moments.variance[1][2]) == (0.0, 0.0)
