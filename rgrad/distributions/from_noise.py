"""Samples of location-scale families, bits and categories, made from the noise of `rgrad.noise`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.backend.kinds import bernoulli, categorical
from rgrad.backend.noise import Shape, is_ours, normal, uniform
from rgrad.distributions.triangular import lower


def sample(q: Any, key: Array, shape: Shape) -> Any:
    """Samples of `q`, shape `shape + q.shape()`, differentiable in its parameters. None if there is no rule.

    A rule applies to one exact type, because a subclass may be drawn differently. It also needs a key and a float type
    that `rgrad.noise` supports. Without a rule, the caller uses `q.sample` and `q.rsample`.
    """
    rule = FROM_NOISE.get(type(q)) if is_ours(key, dtype=float) else None
    return None if rule is None else rule(lower(q), key, (*shape, *q.shape()))


def _transformed(q: Any, key: Array, shape: Shape) -> Any:
    rule = FROM_NOISE.get(type(q.base_dist))
    if rule is None or q.base_dist.shape() != q.shape():  # stick breaking, reshaping
        return None
    x = rule(q.base_dist, key, shape)
    for transform in q.transforms if x is not None else ():
        x = transform(x)
    return x


def _of_base(q: Any, key: Array, shape: Shape) -> Any:
    rule = FROM_NOISE.get(type(q.base_dist))
    return rule and rule(q.base_dist, key, shape)


def _by_quantile(q: Any, key: Array, shape: Shape) -> Any:
    return q.icdf(uniform(key, shape))


def _bernoulli(q: Any, key: Array, shape: Shape) -> Any:
    return bernoulli(key, q.probs, shape)


FROM_NOISE: dict[type, Callable[[Any, Array, Shape], Any]] = {
    dist.Normal: lambda q, key, shape: q.loc + q.scale * normal(key, shape),
    dist.MultivariateNormal: lambda q, key, shape: q.loc + (q.scale_tril @ normal(key, shape)[..., None])[..., 0],
    dist.Uniform: lambda q, key, shape: q.low + (q.high - q.low) * uniform(key, shape),
    dist.BernoulliProbs: _bernoulli,
    dist.BernoulliLogits: _bernoulli,
    dist.CategoricalProbs: lambda q, key, shape: categorical(key, jnp.log(q.probs * 1.0), shape),
    dist.CategoricalLogits: lambda q, key, shape: categorical(key, q.logits * 1.0, shape),
    dist.Cauchy: _by_quantile,
    dist.Exponential: _by_quantile,
    dist.Gumbel: _by_quantile,
    dist.Laplace: _by_quantile,
    dist.Logistic: _by_quantile,
    dist.LogNormal: _transformed,
    dist.TransformedDistribution: _transformed,
    dist.Independent: _of_base,
    dist.ExpandedDistribution: _of_base,
}
"""The rules. Each makes samples of a distribution from a key and the shape of all samples, including the event."""
