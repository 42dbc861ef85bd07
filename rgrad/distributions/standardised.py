"""Standardised noise: an invertible map for each distribution, whose noise depends only weakly on the parameters.

The maps are `eps = inverse(z)` and `z = forward(eps)`. Both are elementwise, and close over the parameters.
`generalized` and `rejection` are the same equation with different maps.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import betaln, digamma, gammaln, polygamma

from rgrad.backend.noise import split
from rgrad.distributions.dependent import DependentDraws
from rgrad.distributions.noise_families import log_gamma
from rgrad.distributions.wrappers import JaxRandom, name_of
from rgrad.errors import NoRule
from rgrad.tracing.jacobian import elementwise


class Standardised(NamedTuple):
    """The distribution to draw from, its map to noise and back, the map to a sample of `q`, and the determinant."""

    source: Any
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    finish: Callable[[Array], Array] = lambda z: z
    linearised: Callable[[Callable[[Array], Array], Array], tuple[Array, Array]] = elementwise


class Logarithm(NamedTuple):
    """The distribution of log z or logit z, for small concentrations: z itself would round to 0 or 1.

    It is given by `sampler(key, shape, *arrays)` and the log density `density(y)`. The entries of an event are independent.
    """

    sampler: Callable[..., Array]
    arrays: tuple[Array, ...]
    density: Callable[[Array], Array]
    event_shape: tuple[int, ...]
    has_rsample: bool = False

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        return self.sampler(key, shape + self.event_shape, *self.arrays)

    def log_prob(self, value: Array) -> Array:
        return self.density(value).sum()


@singledispatch
def by_moments(q: Any) -> Standardised:
    """The map to noise that has mean 0 and variance 1 for all parameters.

    Source: Ruiz, Titsias and Blei 2016 (section 3.3), https://arxiv.org/abs/1610.02287.
    """
    raise NoRule(
        f"generalized has no map for {name_of(q)} (supported: Gamma, InverseGamma, Beta, Dirichlet, LogNormal, "
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

    def sampler(key: Array, shape: tuple[int, ...], a: Array, b: Array) -> Array:
        for_a, for_b = split(key)  # not the key itself, because the sampler of one Gamma splits it again
        return log_gamma(for_a, shape, a) - log_gamma(for_b, shape, b)

    logits = Logarithm(
        sampler,
        (a, b),
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
    return by_moments(q.base)._replace(source=q)  # it has a quantile, so it is its own source


@by_moments.register
def _(q: JaxRandom) -> Standardised:
    how = by_moments(q.base)
    return how._replace(source=q) if how.source is q.base else how  # other sources are drawn by jax.random anyway


def of_event(q: Any, parameter: Any) -> Array:
    """A parameter of q as floats, with the shape of a sample.

    With a smaller shape, several coordinates would share their noise.
    """
    return jnp.broadcast_to(jnp.asarray(parameter) * 1.0, q.shape())


def reciprocal(y: Array) -> Array:
    """1/z for y = log z, kept below the largest float. Beyond it, the derivative would be inf times 0."""
    return jnp.exp(jnp.minimum(-y, jnp.log(jnp.finfo(y.dtype).max) - 1))


def _log_gammas(a: Array, rate: Array, finish: Callable[[Array], Array]) -> Standardised:
    """The map for y = log z, z ~ Gamma(a, rate), which has mean digamma(a) - log(rate) and variance trigamma(a)."""
    logs = Logarithm(
        lambda key, shape, a, rate: log_gamma(key, shape, a) - jnp.log(rate),
        (a, rate),
        lambda y: a * (y + jnp.log(rate)) - rate * jnp.exp(y) - gammaln(a),
        jnp.shape(a),
    )
    return _affine(logs, digamma(a) - jnp.log(rate), jnp.sqrt(polygamma(1, a)), finish)


def _affine(source: Any, mean: Array, sd: Array, finish: Callable[[Array], Array]) -> Standardised:
    return Standardised(source, lambda e: mean + sd * e, lambda y: (y - mean) / sd, finish)
