"""Distributions that are made of another one, and what is inside of them."""

from typing import Any, NamedTuple

import numpyro.distributions as dist

from rgrad.distributions.log_density import Wrapper


class OfBase(NamedTuple):
    base: Any


class JaxRandom(OfBase, Wrapper):
    """`q` with its own `sample` and `rsample`: what `jax_random` returns. All else is that of `q`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def unwrapped(q: Any) -> Any:
    """What is inside of the wrappers of this package: a distribution of the user's."""
    while isinstance(q, Wrapper):
        q = q.base_dist
    return q


def elementary(q: Any) -> Any:
    """The distribution that `q` repeats independently: `Normal` for an event or an expansion of it; else `q` itself."""
    while isinstance(q, dist.Independent | dist.ExpandedDistribution | JaxRandom):
        q = q.base_dist
    return q


def name_of(q: Any) -> str:
    """The name of a distribution as its user wrote it, e.g. `Normal` for an event of several."""
    if isinstance(q, Wrapper):
        return f"{q.prefix}({name_of(q.base)})" if q.prefix else name_of(q.base)
    if isinstance(q, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        return name_of(q.base_dist)
    return type(q).__name__.removesuffix("Probs").removesuffix("Logits")


def has_rule(rules: Any, q: Any) -> bool:
    """Whether a `singledispatch` function has a rule for the type of `q`."""
    return rules.dispatch(type(q)) is not rules.dispatch(object)
