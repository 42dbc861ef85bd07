"""The map from uniform noise to a sample of `q`, from which dependent draws are made."""

from functools import singledispatch
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtri

from rgrad.distributions.admission import normalised
from rgrad.distributions.truncated import sharpened
from rgrad.distributions.wrappers import JaxRandom, name_of
from rgrad.errors import NoRule


@singledispatch
def quantile(q: Any, u: Array) -> Array:
    """The sample of `q` at the uniforms `u`, of the same shape. It is differentiable if `q` is continuous.

    This is the inverse of the distribution function, applied to each coordinate.

    Raises:
        NotImplementedError: NumPyro has no such inverse for `q`.
    """
    if getattr(q, "has_enumerate_support", False) and q.event_shape == ():
        return _discrete_quantile(q, u)
    if not hasattr(q, "icdf"):
        raise no_quantile(q)
    try:
        return sharpened(q).icdf(u)
    except (
        NotImplementedError,
        ImportError,
    ):  # raised by NumPyro, where some formulas need an optional library
        raise no_quantile(q) from None


def no_quantile(q: Any) -> NoRule:
    """The error for a `q` without an inverse distribution function."""
    return NoRule(
        f"antithetic, stratified and quasi draws need an inverse distribution function, and {name_of(q)} has none here "
        "(supported: Normal, MultivariateNormal, LogNormal, Laplace, Logistic, Cauchy, Gumbel, Exponential, Uniform, "
        "TruncatedNormal, Weibull, Kumaraswamy, Bernoulli, Categorical, and vectors of them)",
        "use independent draws",
    )


def _discrete_quantile(q: Any, u: Array) -> Array:
    """The first value for which the cumulative probability reaches `u`."""
    try:
        values = q.enumerate_support(expand=False)  # (K, 1, ...), to be broadcast against the batch
    except NotImplementedError:  # the counts differ within the batch
        raise no_quantile(q) from None
    below = jnp.cumsum(jnp.exp(normalised(q).log_prob(values)), 0)[:-1]
    more = u.ndim - (below.ndim - 1)  # the axes by which q was expanded
    below = below.reshape(len(below), *(1,) * more, *below.shape[1:])
    return values.reshape(-1)[(u > below).sum(0)]


@quantile.register
def _(q: JaxRandom, u: Array) -> Array:
    return quantile(q.base, u)


@quantile.register
def _(q: dist.Independent, u: Array) -> Array:
    return quantile(q.base_dist, u)


@quantile.register
def _(q: dist.ExpandedDistribution, u: Array) -> Array:
    return quantile(q.base_dist, u)


@quantile.register
def _(q: dist.TransformedDistribution, u: Array) -> Array:
    if q.base_dist.shape() != q.shape():  # e.g. stick breaking or reshaping, which are not elementwise
        raise no_quantile(q)
    x = quantile(q.base_dist, u)
    for transform in q.transforms:
        x = transform(x)
    return x


@quantile.register
def _(q: dist.Weibull, u: Array) -> Array:
    return q.scale * (-jnp.log1p(-u)) ** (1 / q.concentration)


@quantile.register
def _(q: dist.Kumaraswamy, u: Array) -> Array:
    x = (-jnp.expm1(jnp.log1p(-u) / q.concentration0)) ** (1 / q.concentration1)
    return jnp.clip(x, jnp.finfo(x.dtype).tiny, 1 - jnp.finfo(x.dtype).eps)  # where NumPyro's samples lie


@quantile.register
def _(q: dist.MultivariateNormal, u: Array) -> Array:
    return q.loc + (q.scale_tril @ ndtri(u)[..., None])[..., 0]


@quantile.register
def _(q: dist.LowRankMultivariateNormal, u: Array) -> Array:
    return quantile(dist.MultivariateNormal(q.loc, covariance_matrix=q.covariance_matrix), u)
