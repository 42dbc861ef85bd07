"""Integers as floats, without losing their last digits."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def difference(x: Array, origin: Array, dtype: Any) -> Array:
    """`x - origin` as a float. For integers of 32 bits and more, the exact difference is rounded once."""
    if not is_wide(x.dtype):
        return x.astype(dtype)
    unsigned = x.astype(f"uint{8 * x.dtype.itemsize}"), origin.astype(f"uint{8 * x.dtype.itemsize}")
    above, below = unsigned[0] - unsigned[1], unsigned[1] - unsigned[0]
    return jnp.where(x >= origin, above.astype(dtype), -below.astype(dtype))


def in_two_parts(origin: Array, dtype: Any) -> tuple[Array, Array]:
    """The high and the low half of the bits of an integer, as floats that sum to it. (0, 0) for a float."""
    if not is_wide(origin.dtype):
        return jnp.zeros(origin.size, dtype), jnp.zeros(origin.size, dtype)
    half = origin.dtype.type(4 * origin.dtype.itemsize)
    high = lax.shift_right_arithmetic(origin, half) if origin.dtype.kind == "i" else origin >> half
    low = origin - (high << half)
    return high.astype(dtype).ravel() * 2.0 ** int(half), low.astype(dtype).ravel()


def is_wide(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.integer)) and dtype.itemsize >= 4
