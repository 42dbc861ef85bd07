"""Values that differ between the devices of a `jax.shard_map`, as our own primitives see them.

With `check_vma` (the default) the type of a value says along which axes of the mesh it varies. JAX's own operations cast
their operands to a common type, and the transpose of that cast is the sum over the devices. A primitive of our own must do
the same, or a gradient misses that sum.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


def same_varying(*arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays as they are, each with the type that varies over all the axes over which any of them varies."""
    values = [jnp.asarray(x) for x in arrays]
    axes = [jax.typeof(x).manual_axis_type.varying for x in values]
    every = frozenset[str]().union(*axes)
    missing = (tuple(sorted(every - own)) for own in axes)
    return tuple(lax.pcast(x, more, to="varying") if more else x for x, more in zip(values, missing, strict=True))


def vary_as(q: Any, key: Array) -> Any:
    """`q`, whose arrays vary over the devices as `key` does too: a loop in a sampler needs one type for all that it carries."""
    if not jax.typeof(key).manual_axis_type.varying:
        return q
    return jax.tree.map(lambda leaf: same_varying(leaf, key)[0] if isinstance(leaf, Array) else leaf, q)
