"""Distributions that wrap another one, and functions that look inside them."""

from typing import Any, NamedTuple

import numpyro.distributions as dist

from rgrad.distributions.log_density import Wrapper


class OfBase(NamedTuple):
    base: Any


class JaxRandom(OfBase, Wrapper):
    """`q`, drawn by its own `sample` and `rsample`. `jax_random` returns it. Everything else is that of `q`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


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
    return type(q).__name__.removesuffix("Probs").removesuffix("Logits")


def has_rule(rules: Any, q: Any) -> bool:
    """Whether a `singledispatch` function has a rule for the type of `q`."""
    return rules.dispatch(type(q)) is not rules.dispatch(object)
