"""Distributions that wrap another one, and functions that look inside them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.distributions.adapted import Adapted, TwoFunctions
from rgrad.distributions.log_density import Wrapper
from rgrad.protocols import Sample


class OfBase(NamedTuple):
    base: Any


class JaxRandom(OfBase, Wrapper):
    """`q`, drawn by its own `sample` and `rsample`. `jax_random` returns it. Everything else is that of `q`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


class BaseAndType(NamedTuple):
    base: Any
    dtype: Any


class SeenAs(BaseAndType, Wrapper):
    """`base`, with samples of another dtype: the one that the library of the user's distribution draws.

    The doors remove it and let f see the dtype, so that the rules for the type of `base` apply.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        return self.base.sample(key, shape).astype(self.dtype)

    def log_prob(self, value: Sample) -> Array:
        kind = jax.eval_shape(lambda: self.base.sample(jax.random.key(0), ())).dtype
        return Wrapper.log_prob(self, jnp.asarray(value).astype(kind))


def inside(q: Any, wrap: Any) -> Any:
    """`wrap(q)`. If `q` is seen as another dtype, so is the result."""
    return SeenAs(inside(q.base, wrap), q.dtype) if isinstance(q, SeenAs) else wrap(q)


def unwrapped(q: Any) -> Any:
    """The user's distribution inside the wrappers of this package."""
    while isinstance(q, Wrapper):
        q = q.base_dist
    return q


def elementary(q: Any) -> Any:
    """The distribution that `q` repeats independently, e.g. `Normal` for a vector of Normals; otherwise `q`."""
    while isinstance(q, dist.Independent | dist.ExpandedDistribution | JaxRandom):
        q = q.base_dist
    return q


def name_of(q: Any) -> str:
    """The name of a distribution as its user wrote it, e.g. `Normal` for a vector of Normals."""
    if isinstance(q, Wrapper):
        return f"{q.prefix}({name_of(q.base)})" if q.prefix else name_of(q.base)
    if isinstance(q, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        return name_of(q.base_dist)
    if isinstance(q, Adapted):
        return "rgrad.distribution(...)" if isinstance(q.origin, TwoFunctions) else type(q.origin).__name__
    return type(q).__name__.removesuffix("Probs").removesuffix("Logits")


def has_rule(rules: Any, q: Any) -> bool:
    """Whether a `singledispatch` function has a rule for the type of `q`."""
    return rules.dispatch(type(q)) is not rules.dispatch(object)
