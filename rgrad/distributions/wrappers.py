"""Distributions that are made of another one, `base`: what they have in common."""

from typing import Any, NamedTuple

from jax import Array

from rgrad.protocols import Sample


class Wrapper:
    """A distribution made of another one, `base`. Its log density is that of `base`, unless it says otherwise.

    `base_dist` is the name that NumPyro's own wrappers have for it: so one walk goes through both.
    """

    base: Any

    @property
    def base_dist(self) -> Any:
        return self.base

    def log_prob(self, value: Sample) -> Array:
        from rgrad.distributions.log_density import (
            log_prob,  # here, because that asks whether a distribution is a wrapper
        )

        return log_prob(self.base, value)


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
