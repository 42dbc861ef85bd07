"""Checks of PRNG keys."""

from typing import Any

import jax
import jax.numpy as jnp


def check_key(key: Any, caller: str) -> None:
    """Raises an error if `key` is not one PRNG key."""
    if not hasattr(key, "dtype"):
        raise TypeError(f"{caller}: key = {key!r} is not a PRNG key; make one with jax.random.key(0)")
    # A legacy key is an array of a few uint32 words. A new-style key has shape ().
    if key.shape != (() if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.PRNGKey(0).shape):
        raise ValueError(f"{caller}: key has shape {key.shape}; give one key, and vmap over several")


def check_counted_key(key: Any, caller: str) -> None:
    """Raises an error if `key` is not one PRNG key, or is of the kind rbg, whose draws depend on the batch size."""
    check_key(key, caller)
    if (kind := jax.random.key_impl(key)) in ("rbg", "unsafe_rbg"):
        raise ValueError(f"{caller}: key is of the kind {kind}, whose draws under vmap depend on the batch; make one with "
                         'jax.random.key(seed), or jax.random.key(seed, impl="threefry2x32") if rbg is your default')  # fmt: skip
