"""Values that differ between the devices of a `jax.shard_map`, and the primitives of this package.

With `check_vma` (the default), the type of a value says along which mesh axes it varies. JAX's own operations cast
their operands to a common type. The transpose of that cast sums over the devices. Our primitives must cast too, or a
gradient misses that sum.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


def same_varying(*arrays: ArrayLike) -> tuple[Array, ...]:
    """Return the arrays, cast to a common type that varies over every axis over which any of them varies."""
    values = [jnp.asarray(x) for x in arrays]
    axes = [jax.typeof(x).manual_axis_type.varying for x in values]
    every = frozenset[str]().union(*axes)
    missing = (tuple(sorted(every - own)) for own in axes)
    return tuple(lax.pcast(x, more, to="varying") if more else x for x, more in zip(values, missing, strict=True))


def vary_as(q: Any, key: Array) -> Any:
    """Return `q` with arrays that vary over the devices as `key` does. A loop in a sampler needs one carry type."""
    if not jax.typeof(key).manual_axis_type.varying:
        return q
    return jax.tree.map(lambda leaf: same_varying(leaf, key)[0] if isinstance(leaf, Array) else leaf, q)
