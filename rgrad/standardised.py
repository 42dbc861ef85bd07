"""Standardised noise: for a distribution, an invertible map whose noise depends on the parameters weakly.

`eps = inverse(z)`, `z = forward(eps)`, both elementwise and with the parameters in the closure. `generalized` and
`rejection` are the same equation with different maps; the maps are here, one small function for each distribution.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import digamma, logit, polygamma

from rgrad.draws import name_of


class Standardised(NamedTuple):
    """Where to draw from, the map to noise and back, and what makes a sample of `q` of it."""

    source: Any
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    finish: Callable[[Array], Array] = lambda z: z


@singledispatch
def by_moments(q: Any) -> Standardised:
    """The maps of Ruiz, Titsias and Blei 2016 (section 3.3): noise of mean 0 and variance 1, whatever the parameters."""
    raise NotImplementedError(
        f"generalized has no map for {name_of(q)} (there are: Gamma, InverseGamma, Beta, Dirichlet, LogNormal, Normal); give "
        "transform=(forward, inverse), or use score_function"
    )


@by_moments.register
def _(q: dist.Normal) -> Standardised:
    return Standardised(q, lambda e: q.loc + q.scale * e, lambda z: (z - q.loc) / q.scale)


@by_moments.register
def _(q: dist.LogNormal) -> Standardised:
    loc, scale = q.base_dist.loc, q.base_dist.scale
    return Standardised(q, lambda e: jnp.exp(loc + scale * e), lambda z: (jnp.log(z) - loc) / scale)


@by_moments.register
def _(q: dist.Gamma) -> Standardised:
    mean, sd = digamma(q.concentration) - jnp.log(q.rate), jnp.sqrt(polygamma(1, q.concentration))  # of log z
    return Standardised(q, lambda e: jnp.exp(mean + sd * e), lambda z: (jnp.log(z) - mean) / sd)


@by_moments.register
def _(q: dist.InverseGamma) -> Standardised:
    inner = by_moments(dist.Gamma(q.concentration, q.rate))
    return inner._replace(finish=lambda z: 1 / z)


@by_moments.register
def _(q: dist.Beta) -> Standardised:
    a, b = q.concentration1, q.concentration0
    mean, sd = digamma(a) - digamma(b), jnp.sqrt(polygamma(1, a) + polygamma(1, b))  # of logit z
    return Standardised(q, lambda e: jax.nn.sigmoid(mean + sd * e), lambda z: (logit(z) - mean) / sd)


@by_moments.register
def _(q: dist.Dirichlet) -> Standardised:
    gammas = dist.Gamma(q.concentration, jnp.ones_like(q.concentration))
    return by_moments(gammas)._replace(source=gammas.to_event(1), finish=to_simplex)


def to_simplex(z: Array) -> Array:
    """Independent Gammas of rate 1 to a Dirichlet, by their sum."""
    return z / z.sum(-1, keepdims=True)
