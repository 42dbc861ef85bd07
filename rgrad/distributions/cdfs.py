"""Distribution functions F(x; theta), differentiable in the parameters and in x. NumPyro's, except where it has none.

JAX has no derivative of `betainc` in its first two arguments. So the rules of Beta and StudentT attach it, to first order.
"""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import betainc, betaln

from rgrad.autodiff import first_order
from rgrad.distributions.betas import logit_slopes
from rgrad.distributions.probabilities import weights_of


def has_cdf(q: Any) -> bool:
    """Whether `cdf` has a rule for `q`: a continuous number, or independent ones."""
    if isinstance(q, dist.Independent | dist.ExpandedDistribution):
        return has_cdf(q.base_dist)
    if getattr(q, "event_shape", None) != () or not hasattr(q, "cdf") or is_discrete(q):
        return False
    if isinstance(q, dist.FoldedDistribution):
        return has_cdf(q.base_dist)
    if isinstance(q, MIXTURES):
        return all(map(has_cdf, components(q)))
    if _inherits(q, dist.TransformedDistribution):
        return has_cdf(q.base_dist) and all(map(_is_monotone, q.transforms))
    return not _inherits(q, dist.Distribution)


MIXTURES = (dist.MixtureSameFamily, dist.MixtureGeneral)


def components(q: Any) -> list[Any]:
    """The components of a mixture: one distribution for each, or one with a last batch axis of all."""
    return list(q.component_distributions) if isinstance(q, dist.MixtureGeneral) else [q.component_distribution]


def is_discrete(q: Any) -> bool:
    return bool(
        getattr(q, "has_enumerate_support", False) or getattr(getattr(q, "support", None), "is_discrete", False)
    )


def _inherits(q: Any, kind: type) -> bool:
    """Whether the `cdf` of `q` is that of this class of NumPyro."""
    return isinstance(q, kind) and type(q).cdf is kind.cdf  # type: ignore[attr-defined]


def _is_monotone(transform: Any) -> bool:
    try:
        transform.sign  # noqa: B018
    except NotImplementedError:
        return False
    return True


@singledispatch
def cdf(q: Any, x: Array) -> Array:
    """F of each number in x, which is broadcast against the batch of `q`. There must be a rule (`has_cdf`)."""
    return q.cdf(x)


@cdf.register(dist.Independent)
@cdf.register(dist.ExpandedDistribution)
def _(q: Any, x: Array) -> Array:
    return cdf(q.base_dist, x)


@cdf.register
def _(q: dist.TransformedDistribution, x: Array) -> Array:
    if not _inherits(q, dist.TransformedDistribution):
        return q.cdf(x)
    sign: Any = 1
    for transform in reversed(q.transforms):
        sign, x = sign * transform.sign, transform.inv(x)
    below = cdf(q.base_dist, x)
    return jnp.where(sign < 0, 1 - below, below)


@cdf.register
def _(q: dist.FoldedDistribution, x: Array) -> Array:
    return cdf(q.base_dist, x) - cdf(q.base_dist, -x)


@cdf.register(dist.MixtureSameFamily)
@cdf.register(dist.MixtureGeneral)
def _(q: Any, x: Array) -> Array:
    w, each = weights_of(q.mixing_distribution), [cdf(part, x[..., None]) for part in components(q)]
    return (w * jnp.concatenate(jnp.broadcast_arrays(*each), -1)).sum(-1)


@cdf.register
def _(q: dist.Beta, x: Array) -> Array:
    x, a, b = jnp.broadcast_arrays(x, q.concentration1, q.concentration0)
    x0, a0, b0 = lax.stop_gradient((x, a, b))
    y = jnp.log(x0) - jnp.log1p(-x0)
    of_a, of_b = logit_slopes(y, a0, b0)
    density = _density_of_logit(y, a0, b0)
    slopes = [density / (x0 * (1 - x0)), -density * of_a, -density * of_b]
    return first_order(betainc(a0, b0, x0), [x, a, b], slopes, "the distribution function of a Beta")


@cdf.register
def _(q: dist.StudentT, x: Array) -> Array:
    """`z^2 / df` is the odds of a Beta(1/2, df/2), so its logarithm is the logit y, and `P(|Z| < |z|) = F(y)`."""
    z, df = jnp.broadcast_arrays((x - q.loc) / q.scale, q.df)
    z0, df0 = lax.stop_gradient((z, df))
    y = 2 * jnp.log(jnp.maximum(jnp.abs(z0), jnp.finfo(z0.dtype).tiny)) - jnp.log(df0)
    half = jnp.full_like(df0, 0.5)
    _, of_b = logit_slopes(y, half, df0 / 2)
    by_df = -jnp.sign(z0) / 2 * _density_of_logit(y, half, df0 / 2) * (of_b / 2 + 1 / df0)
    unit = dist.StudentT(df0, validate_args=False)
    return first_order(
        unit.cdf(z0), [z, df], [jnp.exp(unit.log_prob(z0)), by_df], "the distribution function of a StudentT"
    )


def _density_of_logit(y: Array, a: Array, b: Array) -> Array:
    return jnp.exp(a * jax.nn.log_sigmoid(y) + b * jax.nn.log_sigmoid(-y) - betaln(a, b))
