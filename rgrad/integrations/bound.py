"""The importance-weighted bound of a model and a guide, and its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.autodiff import attach, first_order
from rgrad.backend.noise import split
from rgrad.distributions.wrappers import elementary
from rgrad.errors import Unsuitable, nearest
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.score_function import score_function
from rgrad.estimators.table import name_of_estimator
from rgrad.expectations.bound_gradients import attach_vimco, bound_of
from rgrad.expectations.in_place import is_score_function
from rgrad.integrations.costs import log_density_of
from rgrad.integrations.sites import NONE, Given, ModelAndGuide, Ran, run, summed_to
from rgrad.protocols import Estimator

THROUGH_SAMPLES = {"sticking_the_landing": 1, "doubly_reparameterized": 2}
"""Gradients that pass through the samples only, and the power of the weight of each."""
OF_PATHS = ("reparameterized", *THROUGH_SAMPLES)
GRADIENTS = (*OF_PATHS, "score_function", "vimco")


def gradient_name(gradient: Any, k: int) -> str | None:
    """The name of a gradient of a bound, or None.

    Raises:
        ValueError: no gradient of a bound has this name; or "vimco" with k = 1.
    """
    name = None if gradient is None else name_of_estimator(gradient)
    if name is not None and name not in GRADIENTS:
        raise ValueError(f"SVILoss: unknown gradient {name!r}{nearest(name, GRADIENTS)}")
    if name == "vimco" and k < 2:
        raise Unsuitable("SVILoss: gradient='vimco' needs k >= 2, because its baseline uses the other samples")
    return name


def gradient_for(sites: Mapping[str, Estimator], gradient: str | None, k: int) -> str:
    """The gradient of a bound whose latent sites have these estimators.

    Raises:
        ValueError: the gradient or the bound does not take one of them.
    """
    for name, estimator in sites.items():
        if estimator is not reparameterized and estimator is not score_function:
            raise Unsuitable(
                f"SVILoss: site {name!r}: in a bound of k samples, the estimator must be reparameterized or "
                f"score_function, got {name_of_estimator(estimator)}; its baseline comes from gradient='vimco'"
            )
        if gradient in OF_PATHS and estimator is score_function:
            raise Unsuitable(
                f"SVILoss: gradient={gradient!r} needs every site to be reparameterized, and site {name!r} is not; use "
                "gradient='vimco'"
            )
    if gradient is not None:
        return gradient
    of_paths = all(estimator is reparameterized for estimator in sites.values())
    return "reparameterized" if of_paths else "vimco" if k > 1 else "score_function"


def bound(of: ModelAndGuide, gradient: str, k: int, centre: Any, key: Array) -> tuple[Array, Any]:
    """The negative bound of k samples of all latent sites, a scalar, and the values of mutable sites.

    Args:
        centre: the baseline of "score_function", a function of the bound.
    """
    keys = split(key, k)
    if gradient in THROUGH_SAMPLES:
        return _through_samples(of, gradient, keys)

    def one(key: Array) -> tuple[Array, Array, Any]:
        ran = run(of, key, {}, NONE)
        scores = [log_density_of(site).sum() for site in ran.sites if is_score_function(site.estimator)]
        return _log_weight(ran), sum(scores, start=jnp.zeros(())), ran.mutable

    log_w, log_q, mutable = jax.vmap(one)(keys)
    first = jax.tree.map(lambda x: x[0], mutable)
    if gradient == "vimco":
        return -attach_vimco(log_w, log_q), first
    value = bound_of(log_w)
    if gradient == "reparameterized":
        return -value, first
    centred = value - centre(value)
    return -(value + attach(centred, log_q.sum()) - centred), first


def _through_samples(of: ModelAndGuide, gradient: str, keys: Array) -> tuple[Array, Any]:
    """The negative bound. Its derivative in the samples is `u_k^power d/dx log w_k`; that in the model is not changed.

    The densities of the guide have constant parameters. A `Delta` is not a sample: it computes its value again, and its
    derivative is that of the model.
    """
    of = of._replace(entropy="detached")
    constant = of._replace(params=jax.tree.map(lax.stop_gradient, of.params))

    def drawn(key: Array) -> tuple[Given, Any]:
        ran = run(of, key, {}, NONE)
        is_delta = lambda site: isinstance(elementary(site.distribution), dist.Delta)
        return {site.name: site.value for site in ran.sites if not is_delta(site)}, ran.mutable

    x, mutable = jax.vmap(drawn)(keys)
    at = jax.tree.map(lax.stop_gradient, x)
    log_w = jax.vmap(lambda key, x: _log_weight(run(of, key, x, NONE)))(keys, at)
    slopes = jax.vmap(jax.grad(lambda x, key: _log_weight(run(constant, key, x, NONE))))(at, keys)
    weights = jax.nn.softmax(lax.stop_gradient(log_w)) ** THROUGH_SAMPLES[gradient]
    weighted = [weights.reshape(-1, *(1,) * (s.ndim - 1)) * s for s in jax.tree.leaves(slopes)]
    value = first_order(bound_of(log_w), jax.tree.leaves(x), weighted, f"SVILoss: gradient={gradient!r}")
    return -value, jax.tree.map(lambda x: x[0], mutable)


def _log_weight(ran: Ran) -> Array:
    return -summed_to(ran.terms, ())
