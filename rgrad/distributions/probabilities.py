"""Probabilities of exactly 0 and 1: their derivatives, and the cases that are refused."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import gammaln
from numpyro.distributions.discrete import ZeroInflatedProbs

from rgrad.autodiff import refuse_where
from rgrad.distributions.admission import normalised
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.wrappers import name_of
from rgrad.protocols import Sample

HURDLES = [getattr(dist, name) for name in ("HurdleProbs", "HurdlePoisson") if hasattr(dist, name)]
"""These exist since NumPyro 0.22."""


class Density:
    """An object with only a `log_prob`, so that any formula can be passed to `rgrad.distributions.log_density`."""

    def __init__(self, log_prob: Callable[[Any], Array]) -> None:
        self.log_prob = log_prob


def probability(q: Any, x: Sample) -> Array:
    """q(x) at one point, shape `()`. It is differentiable even in a probability of exactly 0 or 1.

    NumPyro moves `probs` away from 0 and 1 before it takes a logarithm, so its derivative is 0 there. Here no logarithm
    of `probs` is taken.
    """
    q = normalised(q)
    return _pmf(q, x) if _has_probs(q) else jnp.exp(log_prob(q, x))


def refuse_never_drawn(terms: Array, q: Any, caller: str) -> Array:
    """`terms`. Their derivative in a probability of exactly 0 (or 1), or in a rate of 0, is nan or raises.

    The samples that determine this derivative are never drawn, and the score of all others is 0. So no number of
    samples can estimate it.
    """
    for name, edge, parameter, bad, may_be_masked in _never_drawn(q):
        other = "logits or another value" if name == "probs" else "another value"
        message = (
            f"{caller}: {name_of(q)} has a {name} of exactly {edge} that is being differentiated, but the samples on "
            f"which its derivative depends are never drawn; use {other}, stop its gradient, or use "
            "enumerated or measure_valued"
        )
        terms = refuse_where(terms, bad, parameter, "" if may_be_masked else message)
    return terms


def _never_drawn(q: Any) -> Iterator[tuple[str, str, Array, Array, bool]]:
    """Yields each parameter's name, its bad values, its value, which entries are bad, and whether these are common.

    An entry is bad if it makes an event impossible that other values allow. Bad entries are common in the probabilities
    of classes: `jnp.where(mask, p, 0)` is often used to rule out classes. A nan does not pass through this `where`, but
    an error would reach the user.
    """
    is_bad = {"0": lambda p: p <= 0, "1": lambda p: p >= 1, "0 or 1": lambda p: (p <= 0) | (p >= 1)}
    rules: list[tuple[Sequence[type], str, str]] = [
        ((dist.BernoulliProbs, dist.BinomialProbs, dist.GeometricProbs), "probs", "0 or 1"),
        ((dist.CategoricalProbs, dist.MultinomialProbs, dist.NegativeBinomialProbs), "probs", "0"),
        ((dist.Poisson,), "rate", "0"),
        ((ZeroInflatedProbs, dist.ZeroInflatedPoisson), "gate", "1"),
        (HURDLES, "gate", "0 or 1"),
    ]
    for kinds, name, edge in rules:
        if type(q) in kinds:  # a subclass may compute the parameter from a logit
            parameter = jnp.asarray(getattr(q, name)) * 1.0
            yield (
                name,
                edge,
                parameter,
                is_bad[edge](parameter),
                type(q) in (dist.CategoricalProbs, dist.MultinomialProbs),
            )
    parts = getattr(q, "component_distributions", None) or getattr(q, "component_distribution", None)
    for part in parts if isinstance(parts, list | tuple) else [parts, getattr(q, "base_dist", None)]:
        if part is not None:
            yield from _never_drawn(part)


def _has_probs(q: Any) -> bool:
    if isinstance(q, dist.Independent | dist.ExpandedDistribution):
        return _has_probs(q.base_dist)
    return type(q) in PMF and type(q) not in (dist.BernoulliLogits, dist.CategoricalLogits)


def _pmf(q: Any, x: Array) -> Array:
    """The probability of x, shape `q.batch_shape`."""
    rule = PMF.get(type(q))
    return jnp.exp(log_prob(Density(q.log_prob), x)) if rule is None else rule(q, x)


def _of_independent(q: Any, x: Array) -> Array:
    each = _pmf(q.base_dist, x)
    return each.prod(tuple(range(each.ndim - q.reinterpreted_batch_ndims, each.ndim)))


def _of_categorical(p: Array, x: Array) -> Array:
    x = jnp.asarray(x)[..., None]
    p = jnp.broadcast_to(p, jnp.broadcast_shapes(p.shape[:-1], x.shape[:-1]) + p.shape[-1:])
    return jnp.take_along_axis(p, jnp.broadcast_to(x, p.shape[:-1] + (1,)), -1)[..., 0]


def _of_binomial(q: Any, x: Array) -> Array:
    """The probability of x, by powers if p is 0 or 1. Otherwise by deviances, without cancellation (Loader 2000)."""
    p = jnp.asarray(q.probs)
    n, x = jnp.asarray(q.total_count) * 1.0, jnp.asarray(x) * 1.0
    edge = (p <= 0) | (p >= 1)
    at, inside = jnp.where(edge, p, 0.0), jnp.where(edge, 0.5, p)
    ways = jnp.exp(jnp.minimum(gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1), 60.0))  # finite: 0 multiplies it
    by_powers = ways * _power(at, x) * _power(1 - at, n - x)
    log_p = (
        _stirling(n) - _stirling(x) - _stirling(n - x) - _deviance(x, n * inside) - _deviance(n - x, n * (1 - inside))
    )
    between = (x > 0) & (x < n)
    log_p = log_p + jnp.where(between, 0.5 * jnp.log(n / (2 * jnp.pi * jnp.where(between, x * (n - x), 1.0))), 0.0)
    log_p = jnp.where(x == 0, n * jnp.log1p(-inside), jnp.where(x == n, n * jnp.log(inside), log_p))
    return jnp.where(edge, by_powers, jnp.exp(log_p))


def _power(p: Array, times: Array) -> Array:
    """`p ** times`. Its derivatives up to the third are correct at p = 0, where JAX's own become nan."""
    return jnp.select([times == 0, times == 1, times == 2], [jnp.ones_like(p), p, p * p], p ** jnp.maximum(times, 3))


def _stirling(n: Array) -> Array:
    """The error of Stirling's formula, `log n! - log(sqrt(2 pi n) (n / e)^n)`."""
    large = jnp.maximum(n, 10.0)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / large**2) / large**2) / large**2) / large
    small = jnp.clip(n, 1.0, 10.0)
    return jnp.where(
        n > 10, series, gammaln(small + 1) - 0.5 * jnp.log(2 * jnp.pi * small) - small * jnp.log(small) + small
    )


def _deviance(x: Array, mean: Array) -> Array:
    """`x log(x / mean) + mean - x`, without cancellation near the mean."""
    x = jnp.maximum(x, 1.0)
    t = (mean - x) / x
    near = jnp.abs(t) < 0.1
    s = jnp.where(near, t, 0.0)
    # t - log1p(t) = t^2/2 - t^3/3 + ...
    series = s**2 * sum((-s) ** k / (k + 2) for k in range(9))
    return x * jnp.where(near, series, t - jnp.log1p(jnp.where(near, 0.0, t)))


def weights_of(mixing: Any) -> Array:
    """The normalised weights of a mixture, as in NumPyro. If they are given as `probs`, no logarithm is taken."""
    if isinstance(mixing, dist.CategoricalProbs):
        return mixing.probs / mixing.probs.sum(-1, keepdims=True)
    return jax.nn.softmax(mixing.logits)


def _components(q: Any, x: Array, of: Callable[[Any, Array], Array]) -> Array:
    """`of(component, x)` for each component, along the last axis."""
    if isinstance(q, dist.MixtureSameFamily):
        return of(q.component_distribution, jnp.expand_dims(x, q.mixture_dim))
    return jnp.stack([jnp.broadcast_to(of(part, x), q.batch_shape) for part in q.component_distributions], -1)


def _of_mixture(q: Any, x: Array) -> Array:
    return (weights_of(q.mixing_distribution) * _components(q, x, _pmf)).sum(-1)


def log_mixture(q: Any, x: Array) -> Array:
    """`log sum_k w_k q_k(x)`. Its derivative is correct in a weight of 0, where NumPyro's logarithm has none."""

    def of(part: Any, x: Array) -> Array:
        inside = True if isinstance(q, dist.MixtureSameFamily) or q._support is None else part.support(x)
        return jnp.where(inside, part.log_prob(x), -jnp.inf)

    log_p, w = _components(q, x, of), weights_of(q.mixing_distribution)
    # Not logsumexp, which drops components with weight 0.
    largest = lax.stop_gradient(jnp.where(w > 0, log_p, -jnp.inf).max(-1, keepdims=True))
    ratio = jnp.exp(jnp.minimum(log_p - largest, 80.0))
    return jnp.log((w * ratio).sum(-1)) + largest[..., 0]


PMF: dict[type, Callable[[Any, Array], Array]] = {
    dist.Independent: _of_independent,
    dist.ExpandedDistribution: lambda q, x: jnp.broadcast_to(_pmf(q.base_dist, x), q.batch_shape),
    dist.BernoulliProbs: lambda q, x: jnp.where(x == 1, q.probs, 1.0 - q.probs),
    dist.BernoulliLogits: lambda q, x: jax.nn.sigmoid(jnp.where(x == 1, q.logits, -q.logits)),
    dist.CategoricalProbs: lambda q, x: _of_categorical(q.probs, x),
    dist.CategoricalLogits: lambda q, x: _of_categorical(jax.nn.softmax(q.logits), x),
    dist.BinomialProbs: _of_binomial,
    ZeroInflatedProbs: lambda q, x: q.gate * (x == 0) + (1 - q.gate) * _pmf(q.base_dist, x),
    dist.MixtureSameFamily: _of_mixture,
    dist.MixtureGeneral: _of_mixture,
}
