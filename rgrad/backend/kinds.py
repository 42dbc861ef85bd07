"""Gumbel noise, bits and categories, from the uniforms of `rgrad.backend.noise`: their tails end at a probability of 2^-24."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from rgrad.backend.noise import Shape, uniform


def exponential(key: Array, shape: Shape = (), dtype: Any = float) -> Array:
    """Standard exponential noise."""
    return -jnp.log(uniform(key, shape, dtype))


def gumbel(key: Array, shape: Shape = (), dtype: Any = float) -> Array:
    """Standard Gumbel noise."""
    return -jnp.log(exponential(key, shape, dtype))


def bernoulli(key: Array, p: Any, shape: Shape) -> Array:
    """Integers 0 and 1, of the given shape. An event with a probability below 2^-24 is never drawn."""
    p = jnp.asarray(p) * 1.0
    return (uniform(key, shape, p.dtype) < p).astype(int)


def categorical(key: Array, logits: Array, shape: Shape) -> Array:
    """Indices of the given shape. The last axis of `logits`, which need not be normalised, is that of the classes."""
    return jnp.argmax(logits + gumbel(key, (*shape, logits.shape[-1]), logits.dtype), -1)
