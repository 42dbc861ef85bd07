"""Samples that carry a PRNG key each, for objectives with randomness of their own (`keyed=True`)."""

from typing import Any

import jax
from jax import Array

from rgrad.backend.noise import split
from rgrad.distributions.implicit import has_rsample, rsample, sample
from rgrad.distributions.log_density import Wrapper, log_prob
from rgrad.distributions.wrappers import OfBase
from rgrad.protocols import Sample


class WithKey(OfBase, Wrapper):
    """The joint distribution of a sample of `q` and an independent PRNG key. `keyed=True` takes expectations over it.

    Any estimator that only draws from q and evaluates f, including your own, supports keys without special code.
    """

    @property
    def has_rsample(self) -> bool:
        return has_rsample(self.base)

    @property
    def support(self) -> Any:
        return getattr(self.base, "support", ())

    def sample(self, key: Array, shape: tuple[int, ...]) -> tuple[Sample, Array]:
        for_x, for_f = split(key)
        return sample(self.base, for_x, shape), split(for_f, shape)

    def rsample(self, key: Array, shape: tuple[int, ...]) -> tuple[Sample, Array]:
        for_x, for_f = split(key)
        return rsample(self.base, for_x, shape), split(for_f, shape)

    def log_prob(self, value: tuple[Sample, Array]) -> Array:
        return log_prob(self.base, value[0])


def base_of(q: Any) -> Any:
    """`q` without its keys."""
    return q.base if isinstance(q, WithKey) else q


def rewrapped(q: Any, base: Any) -> Any:
    """`base`, with keys if `q` has them."""
    return WithKey(base) if isinstance(q, WithKey) else base


def sample_of(q: Any, x: Any) -> Sample:
    """A sample of `q` without its key."""
    return x[0] if isinstance(q, WithKey) else x


def with_keys(q: Any, x: Sample, key: Array) -> Any:
    """The n samples `x` of `base_of(q)` as samples of `q`: with keys split from `key` if `q` has them."""
    if not isinstance(q, WithKey):
        return x
    return x, split(key, len(jax.tree.leaves(x)[0]))
