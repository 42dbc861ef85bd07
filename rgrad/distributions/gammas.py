"""Distributions that are functions of independent Gammas, as `rejection` needs them."""

from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from rgrad.distributions.standardised import of_event, reciprocal
from rgrad.distributions.wrappers import JaxRandom, name_of
from rgrad.errors import NoRule


@singledispatch
def as_gammas(q: Any) -> Any:
    """The shapes and rates of independent Gammas, and the function from their logarithms to a sample of `q`."""
    raise NoRule(
        f"rejection has no sampler for {name_of(q)} (supported: Gamma, InverseGamma, Beta, Dirichlet, and vectors of "
        "them)"
    )


@as_gammas.register
def _(q: dist.Gamma) -> Any:
    return of_event(q, q.concentration), of_event(q, q.rate), jnp.exp


@as_gammas.register
def _(q: dist.InverseGamma) -> Any:
    return of_event(q, q.concentration), of_event(q, q.rate), reciprocal


@as_gammas.register
def _(q: dist.Beta) -> Any:
    shapes = jnp.stack([of_event(q, q.concentration1), of_event(q, q.concentration0)], -1)
    return shapes, jnp.ones_like(shapes), lambda log_z: jax.nn.sigmoid(log_z[..., 0] - log_z[..., 1])


@as_gammas.register
def _(q: dist.Dirichlet) -> Any:
    shapes = of_event(q, q.concentration)
    return shapes, jnp.ones_like(shapes), jax.nn.softmax


@as_gammas.register(dist.Independent)
@as_gammas.register(JaxRandom)
def _(q: Any) -> Any:
    return as_gammas(q.base_dist)


@as_gammas.register
def _(q: dist.ExpandedDistribution) -> Any:
    shape, rate, finish = as_gammas(q.base_dist)
    whole = q.shape() + shape.shape[len(q.base_dist.shape()) :]  # a Beta has two Gammas
    return jnp.broadcast_to(shape, whole), jnp.broadcast_to(rate, whole), finish
