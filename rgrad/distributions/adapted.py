"""Distributions of other libraries, with the members of `rgrad.Distribution`. `as_distribution` makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rgrad.protocols import Sample

Draws = Callable[[Any, Array, tuple[int, ...]], Sample]


class TwoFunctions(NamedTuple):
    """A distribution that consists of two functions. `rgrad.distribution` makes it."""

    sample: Any
    log_prob: Any


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["origin", "support"],
    meta_fields=["draws", "has_rsample", "event_shape", "summed", "reason"],
)
@dataclass(frozen=True)
class Adapted:
    """`origin`, a distribution of another library, with the members of `rgrad.Distribution`."""

    origin: Any
    support: tuple[Any, ...]
    """The numbers that may bound the support."""
    draws: Draws
    """How its `sample` is called. One of `DRAWS`."""
    has_rsample: bool
    event_shape: tuple[int, ...] | None
    """None if a sample is not one array."""
    summed: bool
    """Whether `origin.log_prob` returns one number for each coordinate."""
    reason: str = ""
    """Why it has no `rsample`, and what to do about it."""

    batch_shape = ()

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        # FlowJAX accepts only typed keys.
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        return self.draws(self.origin, key if typed else jax.random.wrap_key_data(key), tuple(shape))

    def rsample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        return self.sample(key, shape)

    def log_prob(self, value: Sample) -> Array:
        log_p = self.origin.log_prob(value)
        return log_p.sum() if self.summed else log_p


def _one_by_one(q: Any, key: Array, shape: tuple[int, ...]) -> Sample:
    keys = jax.random.split(key, prod(shape))
    samples = jax.vmap(lambda key: q.sample(key))(keys)
    return jax.tree.map(lambda x: x.reshape(shape + x.shape[1:]), samples)


def _by_seed(q: Any, key: Array, shape: tuple[int, ...]) -> Sample:
    return q.sample(seed=key, sample_shape=shape)


def _by_shape(q: Any, key: Array, shape: tuple[int, ...]) -> Sample:
    return q.sample(key, shape)


DRAWS: dict[str, Draws] = {"seed, sample_shape": _by_seed, "key, shape": _by_shape, "key": _one_by_one}
"""How a `sample` is called, by the arguments that it takes."""


def density_of_one(q: Any, x: Sample) -> Array:
    """`q.log_prob(x)`, summed if `q` returns one number for each coordinate of an event, as distreqx does."""
    log_p = q.log_prob(x)
    own = not hasattr(q, "has_rsample") and not hasattr(q, "batch_shape") and jnp.shape(log_p) != ()
    return log_p.sum() if own and jnp.shape(log_p) == jnp.shape(x) == getattr(q, "event_shape", None) else log_p
