"""Weak derivatives: the derivative of a density in a parameter as a difference of two densities, `c (q+ - q-)`."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.backend.noise import split
from rgrad.backend.varying import same_varying
from rgrad.distributions.draws import as_it_is
from rgrad.distributions.wrappers import name_of
from rgrad.errors import NoRule

Rule = Callable[[Array, Array, bool], tuple[Array, Array, Array]]
"""Maps (samples x, key, coupled) to the constant c and points x+ and x-, of the shape of x: dq/dtheta = c (q+ - q-)."""


@singledispatch
def weak_derivatives(q: Any) -> dict[str, Rule]:
    """The rules for the parameters of `q`, by name.

    Source: Mohamed et al. 2020 (table 1), https://arxiv.org/abs/1906.10652.
    """
    raise NoRule(
        f"measure_valued has no rule for {name_of(q)} (supported: Normal, LogNormal, Exponential, Gamma, "
        "Poisson, Bernoulli)"
    )


@weak_derivatives.register
def _(q: dist.Normal) -> dict[str, Rule]:
    return {"loc": _normal_loc(q, lambda z: z), "scale": _normal_scale(q, lambda z: z)}


@weak_derivatives.register
def _(q: dist.LogNormal) -> dict[str, Rule]:
    image = lambda y: as_it_is(jnp.exp(y))
    return {"loc": _normal_loc(q.base_dist, image), "scale": _normal_scale(q.base_dist, image)}


def _normal_loc(q: dist.Normal, image: Callable[[Array], Array]) -> Rule:
    """The rule of loc: c = 1 / (sigma sqrt(2 pi)), x+- = mu +- sigma w, w ~ Weibull(sqrt 2, 2), i.e. Rayleigh."""

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        w = jnp.sqrt(2 * jax.random.exponential(key, (2, *x.shape), x.dtype))
        plus, minus = w[0], w[0] if coupled else w[1]
        return 1 / (q.scale * jnp.sqrt(2 * jnp.pi)), image(q.loc + q.scale * plus), image(q.loc - q.scale * minus)

    return rule


def _normal_scale(q: dist.Normal, image: Callable[[Array], Array]) -> Rule:
    """The rule of scale: c = 1 / sigma, x+ = mu + sigma m, x- = mu + sigma e; m double-sided Maxwell, e normal.

    The coupling is e = m u with u uniform on (0, 1): one coordinate of a random point on a sphere is uniform
    (Archimedes).
    """

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        for_m, for_sign, for_e = split(key, 3)
        m = jnp.sqrt((jax.random.normal(for_m, (3, *x.shape), x.dtype) ** 2).sum(0))
        m *= jax.random.rademacher(for_sign, x.shape, x.dtype)
        e = m * jax.random.uniform(for_e, x.shape, x.dtype) if coupled else jax.random.normal(for_e, x.shape, x.dtype)
        return 1 / q.scale, image(q.loc + q.scale * m), image(q.loc + q.scale * e)

    return rule


@weak_derivatives.register
def _(q: dist.Gamma) -> dict[str, Rule]:
    """The rule of the rate b: c = a / b, x+ ~ Gamma(a, b), x- ~ Gamma(a + 1, b). Coupled: x- = x+ + Exponential(b)."""

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        a, b = q.concentration, q.rate
        more = (
            jax.random.exponential(key, x.shape, x.dtype) if coupled else jax.random.gamma(key, a + 1, x.shape, x.dtype)
        )
        return a / b, x, (x if coupled else 0.0) + more / b

    return {"rate": rule}


@weak_derivatives.register
def _(q: dist.Exponential) -> dict[str, Rule]:
    return weak_derivatives(dist.Gamma(jnp.ones_like(q.rate), q.rate))


@weak_derivatives.register
def _(q: dist.Poisson) -> dict[str, Rule]:
    """The rule of the rate: c = 1, x+ = x + 1, x- = x. Uncoupled, x- is another draw."""

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        rate, _ = same_varying(q.rate, x)
        other = x if coupled else jax.random.poisson(key, rate, x.shape).astype(x.dtype)
        return jnp.ones(()), x + 1, other

    return {"rate": rule}


@weak_derivatives.register
def _(q: dist.BernoulliProbs) -> dict[str, Rule]:
    """The rule of probs: c = 1, x+ = 1, x- = 0."""
    return {"probs": lambda x, key, coupled: (jnp.ones(()), jnp.ones_like(x), jnp.zeros_like(x))}


@weak_derivatives.register
def _(q: dist.BernoulliLogits) -> dict[str, Rule]:
    """The rule of logits: c = p (1 - p), x+ = 1, x- = 0."""
    p = jax.nn.sigmoid(q.logits)
    return {"logits": lambda x, key, coupled: (p * (1 - p), jnp.ones_like(x), jnp.zeros_like(x))}
