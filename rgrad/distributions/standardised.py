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
from jax.scipy.special import betaln, digamma, gammaln, polygamma

from rgrad.distributions.dependent import DependentDraws
from rgrad.distributions.wrappers import JaxRandom, name_of
from rgrad.errors import NoRule
from rgrad.tracing.jacobian import elementwise


class Standardised(NamedTuple):
    """Where to draw from, the map to noise and back, what makes a sample of `q` of it, and the determinant of the map."""

    source: Any
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    finish: Callable[[Array], Array] = lambda z: z
    linearised: Callable[[Callable[[Array], Array], Array], tuple[Array, Array]] = elementwise


class Logarithm(NamedTuple):
    """The law of log z or logit z, where z itself would round to 0 or 1: what small concentrations need.

    `sampler(key, shape)` and `density(y)`; independent over the shape of an event.
    """

    sampler: Callable[[Array, tuple[int, ...]], Array]
    density: Callable[[Array], Array]
    event_shape: tuple[int, ...]
    has_rsample: bool = False

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        return self.sampler(key, shape + self.event_shape)

    def log_prob(self, value: Array) -> Array:
        return self.density(value).sum()


@singledispatch
def by_moments(q: Any) -> Standardised:
    """The maps of Ruiz, Titsias and Blei 2016 (section 3.3): noise of mean 0 and variance 1, whatever the parameters."""
    raise NoRule(
        f"generalized has no map for {name_of(q)} (there are: Gamma, InverseGamma, Beta, Dirichlet, LogNormal, "
        "Normal; for others give transform=(forward, inverse))"
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
    return _log_gammas(of_event(q, q.concentration), of_event(q, q.rate), jnp.exp)


@by_moments.register
def _(q: dist.InverseGamma) -> Standardised:
    return _log_gammas(of_event(q, q.concentration), of_event(q, q.rate), reciprocal)


@by_moments.register
def _(q: dist.Dirichlet) -> Standardised:
    a = of_event(q, q.concentration)
    return _log_gammas(a, jnp.ones_like(a), jax.nn.softmax)


@by_moments.register
def _(q: dist.Beta) -> Standardised:
    a, b = of_event(q, q.concentration1), of_event(q, q.concentration0)

    def sampler(key: Array, shape: tuple[int, ...]) -> Array:
        for_a, for_b = jax.random.split(key)  # not the key itself: the sampler of one Gamma splits it again
        return _log_gamma(for_a, a, shape) - _log_gamma(for_b, b, shape)

    logits = Logarithm(
        sampler,
        lambda y: a * jax.nn.log_sigmoid(y) + b * jax.nn.log_sigmoid(-y) - betaln(a, b),
        jnp.shape(a),
    )
    mean, sd = digamma(a) - digamma(b), jnp.sqrt(polygamma(1, a) + polygamma(1, b))
    return _affine(logits, mean, sd, jax.nn.sigmoid)


@by_moments.register
def _(q: dist.Independent) -> Standardised:
    how = by_moments(q.base_dist)
    return how._replace(source=q) if how.source is q.base_dist else how


@by_moments.register
def _(q: dist.ExpandedDistribution) -> Standardised:
    how = by_moments(q.base_dist)
    return how._replace(source=how.source._replace(event_shape=q.shape()) if isinstance(how.source, Logarithm) else q)


@by_moments.register
def _(q: DependentDraws) -> Standardised:
    how = by_moments(q.base)
    if how.source is not q.base:
        raise NoRule(
            f"generalized draws the noise of a {name_of(q.base)} by itself, and takes no {q.prefix} draws of it",
            "give the distribution itself",
        )
    return how._replace(source=q)


@by_moments.register
def _(q: JaxRandom) -> Standardised:
    how = by_moments(q.base)
    return how._replace(source=q) if how.source is q.base else how  # what is drawn here is drawn by jax.random


def of_event(q: Any, parameter: Any) -> Array:
    """A parameter of q, of the shape of its sample: noise of its own shape would be shared by coordinates.

    As floats, also if it was given as 2.
    """
    return jnp.broadcast_to(jnp.asarray(parameter) * 1.0, q.shape())


def reciprocal(y: Array) -> Array:
    """1/z of y = log z. No larger than a float can be: beyond, the derivative would be inf times 0."""
    return jnp.exp(jnp.minimum(-y, jnp.log(jnp.finfo(y.dtype).max) - 1))


def _log_gammas(a: Array, rate: Array, finish: Callable[[Array], Array]) -> Standardised:
    """Independent y = log z, z ~ Gamma(a, rate), of mean digamma(a) - log(rate) and variance trigamma(a)."""
    logs = Logarithm(
        lambda key, shape: _log_gamma(key, a, shape) - jnp.log(rate),
        lambda y: a * (y + jnp.log(rate)) - rate * jnp.exp(y) - gammaln(a),
        jnp.shape(a),
    )
    return _affine(logs, digamma(a) - jnp.log(rate), jnp.sqrt(polygamma(1, a)), finish)


def _log_gamma(key: Array, a: Array, shape: tuple[int, ...]) -> Array:
    """log z, z ~ Gamma(a, 1), never below the quantile of one rounding: the library's may be -inf, once in 2^23 draws."""
    y = jax.random.loggamma(key, a, shape, a.dtype)
    return jnp.maximum(y, jnp.log(jnp.finfo(y.dtype).eps) / a - 1)


def _affine(source: Any, mean: Array, sd: Array, finish: Callable[[Array], Array]) -> Standardised:
    return Standardised(source, lambda e: mean + sd * e, lambda y: (y - mean) / sd, finish)
