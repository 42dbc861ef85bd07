"""How the distribution function F of a count depends on its parameters, as `go` needs it."""

from __future__ import annotations

from functools import partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.distributions.log_density import log_prob
from rgrad.distributions.wrappers import has_rule, name_of
from rgrad.errors import NoRule

Ratios = dict[str, tuple[Array, Array]]
"""By the name of a parameter: the parameter, and `-dF(x)/dparameter / q(x)` at each sample."""


@singledispatch
def ratios(q: Any, x: Array, key: Array) -> Ratios:
    """The ratios at samples x, as floats, of shape `(n, *batch)`. They are closed forms, accurate in both tails.

    For any other `q` with a `cdf`, the "parameter" is F itself, whose derivative JAX computes.

    Args:
        key: for ratios that are known only as an expectation. They are unbiased estimates of it.
    """
    if not has_cdf(q):
        raise NoRule(
            f"go has no rule for {name_of(q)} (supported: Poisson, Binomial, Geometric, NegativeBinomial, GammaPoisson, "
            "integers with a cdf)"
        )
    return {"cdf": (cdf(q, x), -jnp.exp(-jax.vmap(partial(log_prob, q))(x)))}


def has_ratios(q: Any) -> bool:
    return has_rule(ratios, q) or has_cdf(q)


def has_cdf(q: Any) -> bool:
    """Whether the samples of `q` are integers, and it has a `cdf`. (NumPyro's base class has one that only raises.)"""
    if isinstance(q, dist.Distribution):
        return type(q).cdf is not dist.Distribution.cdf and bool(getattr(q.support, "is_discrete", False))
    if not callable(getattr(q, "cdf", None)) or getattr(q, "event_shape", ()) != ():
        return False
    x = jax.eval_shape(lambda key: q.sample(key, ()), jax.random.key(0))
    return isinstance(x, jax.ShapeDtypeStruct) and jnp.issubdtype(x.dtype, jnp.integer)


def cdf(q: Any, x: Array) -> Array:
    return jax.vmap(q.cdf)(x)


def is_last(q: Any, x: Array) -> Array:
    """Whether a sample is the largest possible one, i.e. F(x) is 1 for all parameters. (F may be rounded.)"""
    top = getattr(getattr(q, "support", None), "upper_bound", None)
    if top is not None:
        return x >= lax.stop_gradient(jnp.asarray(top))
    if has_rule(ratios, q):
        return jnp.zeros(x.shape, bool)
    return lax.stop_gradient(cdf(q, x)) >= 1 - 16 * jnp.finfo(float).eps


@ratios.register
def _(q: dist.Poisson, x: Array, key: Array) -> Ratios:
    return {"rate": (jnp.asarray(q.rate), jnp.ones_like(x))}


@ratios.register
def _(q: dist.BinomialProbs, x: Array, key: Array) -> Ratios:
    return {"probs": (jnp.asarray(q.probs), (q.total_count - x) / (1 - q.probs))}


@ratios.register
def _(q: dist.BinomialLogits, x: Array, key: Array) -> Ratios:
    return {"logits": (jnp.asarray(q.logits), (q.total_count - x) * jax.nn.sigmoid(q.logits))}


@ratios.register
def _(q: dist.GeometricProbs, x: Array, key: Array) -> Ratios:
    return {"probs": (jnp.asarray(q.probs), -(x + 1) / q.probs)}


@ratios.register
def _(q: dist.GeometricLogits, x: Array, key: Array) -> Ratios:
    return {"logits": (jnp.asarray(q.logits), -(x + 1) * jax.nn.sigmoid(-jnp.asarray(q.logits)))}


@ratios.register
def _(q: dist.GammaPoisson, x: Array, key: Array) -> Ratios:
    a, b = jnp.asarray(q.concentration), jnp.asarray(q.rate)
    return {"concentration": (a, _of_concentration(q, x, key)), "rate": (b, -(a + x) / (b * (1 + b)))}


@ratios.register
def _(q: dist.NegativeBinomialProbs, x: Array, key: Array) -> Ratios:
    a = jnp.asarray(q.total_count)
    return {"total_count": (a, _of_concentration(q, x, key)), "probs": (jnp.asarray(q.probs), (a + x) / (1 - q.probs))}


@ratios.register
def _(q: dist.NegativeBinomialLogits, x: Array, key: Array) -> Ratios:
    a, p = jnp.asarray(q.total_count), jax.nn.sigmoid(q.logits)
    return {"total_count": (a, _of_concentration(q, x, key)), "logits": (jnp.asarray(q.logits), (a + x) * p)}


def _of_concentration(q: dist.GammaPoisson, x: Array, key: Array) -> Array:
    """An unbiased estimate of the ratio for the concentration a, which has no closed form.

    x is a Poisson whose rate r is drawn from Gamma(a, b). So the ratio is `E[dr/da | x]`, and given x the rate is
    distributed as Gamma(a + x, 1 + b).
    """
    a, b = (lax.stop_gradient(jnp.broadcast_to(p, x.shape).astype(x.dtype)) for p in (q.concentration, q.rate))
    r = jax.random.gamma(key, a + x) / (1 + b)
    return lax.random_gamma_grad(a, r * b) / b
