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

from rgrad.backend.noise import split
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
    keys = split(key, prod(shape))
    samples = jax.vmap(lambda key: q.sample(key))(keys)
    return jax.tree.map(lambda x: x.reshape(shape + x.shape[1:]), samples)


def _by_seed(q: Any, key: Array, shape: tuple[int, ...]) -> Sample:
    return q.sample(seed=key, sample_shape=shape)


def _by_shape(q: Any, key: Array, shape: tuple[int, ...]) -> Sample:
    return q.sample(key, shape)


DRAWS: dict[str, Draws] = {"seed, sample_shape": _by_seed, "key, shape": _by_shape, "key": _one_by_one}
"""How a `sample` is called, by the arguments that it takes."""


def density_of_one(q: Any, x: Sample) -> Array:
    """`q.log_prob(x)`. If `x` is one sample and the result has its shape, it is summed, e.g. for distreqx.

    Raises:
        ValueError: `x` is one sample, and the result has neither shape `()` nor that of the sample.
    """
    log_p, event = q.log_prob(x), event_shape_of(q)
    shape = getattr(log_p, "shape", None)
    if shape == () or event is None or jnp.shape(x) != event or tuple(getattr(q, "batch_shape", ())) != ():
        return log_p
    if shape == event:
        return log_p.sum()
    raise ValueError(wrong_density(type(q).__name__, log_p))


def event_shape_of(q: Any) -> tuple[int, ...] | None:
    """The shape of one sample, as the library says it. None if it does not, or if a sample is not one array."""
    shape = getattr(q, "event_shape", getattr(q, "shape", None))
    try:
        return tuple(int(size) for size in shape)  # type: ignore[union-attr]
    except (TypeError, ValueError):  # a method, or a tree of shapes
        return None


def wrong_density(name: str, log_p: Any) -> str:
    found = f"shape {log_p.shape}" if hasattr(log_p, "shape") else type(log_p).__name__
    return (
        f"{name}.log_prob returns {found} for one sample; it must return a scalar, the log density of the whole sample "
        "(or one number for each of its coordinates)"
    )


def wrong_samples(name: str, x: Sample, shape: tuple[int, ...], event: tuple[int, ...] | None) -> str | None:
    """What is wrong with the shape of samples that were drawn with `shape`. None if nothing is."""
    leaves = jax.tree.leaves(x)
    single = event is not None and len(leaves) == 1
    for leaf in leaves:
        found = jnp.shape(leaf)
        if found != (*shape, *event) if single and event is not None else found[: len(shape)] != shape:
            wanted = (*shape, *event) if single and event is not None else f"{str(shape)[:-1]} ...)"
            return (
                f"{name}.sample returns shape {found} for shape {shape}; it must return {wanted}, shape + event_shape"
            )
    return None
