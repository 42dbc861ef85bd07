"""The exact entropy of a distribution, differentiable in its parameters."""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import AffineTransform, LowerCholeskyAffine

from rgrad.distributions.dependent import DependentDraws
from rgrad.distributions.location_scale import Affine, log_abs_det
from rgrad.distributions.wrappers import JaxRandom, name_of
from rgrad.errors import NoRule


@singledispatch
def entropy(q: Any) -> Array:
    """The entropy `H[q] = -E_q[log q]` in nats, shape `q.batch_shape`. For `mu + C eps` it is `H[phi] + log |det C|`.

    Raises:
        NotImplementedError: no formula is known for `q`.
    """
    none = NoRule(f"elbo: no exact entropy is known for {name_of(q)}", 'use entropy="sampled"')
    if not hasattr(q, "entropy"):
        raise none
    try:
        return _of_batch(q, q.entropy())
    except NotImplementedError:  # raised by NumPyro
        raise none from None


@entropy.register
def _(q: dist.TransformedDistribution) -> Array:
    if type(q).entropy is not dist.Distribution.entropy:  # e.g. LogNormal has its own
        return _of_batch(q, q.entropy())
    stretched: Any = 0.0
    for transform in q.transforms:
        match transform:
            case Affine():
                stretched += log_abs_det(transform.scale)
            case LowerCholeskyAffine():
                stretched += jnp.log(jnp.diagonal(transform.scale_tril, axis1=-2, axis2=-1)).sum(-1)
            case AffineTransform():
                logs = jnp.log(jnp.abs(jnp.broadcast_to(transform.scale, q.shape())))
                stretched += logs.sum(tuple(range(logs.ndim - len(q.event_shape), logs.ndim)))
            case _:
                raise NoRule(
                    f"elbo: no exact entropy is known for {type(transform).__name__} of {name_of(q.base_dist)}",
                    'use entropy="sampled"',
                )
    return _of_batch(q, entropy(q.base_dist) + stretched)


@entropy.register
def _(q: dist.Independent) -> Array:
    each = entropy(q.base_dist)
    return each.sum(tuple(range(each.ndim - q.reinterpreted_batch_ndims, each.ndim)))


@entropy.register
def _(q: dist.ExpandedDistribution) -> Array:
    return _of_batch(q, entropy(q.base_dist))


@entropy.register
def _(q: dist.BernoulliLogits) -> Array:
    # The derivative of NumPyro's formula is nan at large logits. Here `H = softplus(l) - l sigmoid(l)`.
    return _of_batch(q, jax.nn.softplus(q.logits) - q.logits * jax.nn.sigmoid(q.logits))


@entropy.register(JaxRandom)
@entropy.register(DependentDraws)
def _(q: Any) -> Array:
    return entropy(q.base)


def _of_batch(q: Any, value: Any) -> Array:
    """An entropy, broadcast to the batch shape. NumPyro's has the shape of the parameters that it depends on."""
    return jnp.broadcast_to(value, getattr(q, "batch_shape", jnp.shape(value)))
