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
    """The arrays, each cast so that it varies over every mesh axis over which any of them varies."""
    values = [jnp.asarray(x) for x in arrays]
    axes = [jax.typeof(x).manual_axis_type.varying for x in values]
    every = frozenset[str]().union(*axes)
    return tuple(varying_over(x, every) for x in values)


def varying_over(x: Array, axes: frozenset[str]) -> Array:
    """`x`, cast so that it varies over these mesh axes too."""
    more = tuple(sorted(axes - jax.typeof(x).manual_axis_type.varying))
    return lax.pcast(x, more, to="varying") if more else x


def sample_of(q: Any, key: Array, shape: tuple[int, ...], method: str = "sample") -> Any:
    """`q.sample(key, shape)`, also inside `jax.shard_map`.

    The carry of a loop must keep its type. So the key and the arrays of `q` are all cast to vary over every mesh axis
    over which any of them varies.
    """
    leaves, structure = jax.tree.flatten((q, key))
    arrays = [leaf for leaf in leaves if isinstance(leaf, Array)]
    if not any(jax.typeof(x).manual_axis_type.varying for x in arrays):
        return getattr(q, method)(key, shape)
    cast = iter(same_varying(*arrays))
    q, key = jax.tree.unflatten(structure, [next(cast) if isinstance(leaf, Array) else leaf for leaf in leaves])
    try:
        return getattr(q, method)(key, shape)
    except TypeError as error:
        error.add_note(
            f"rgrad: this is the sampler of {type(q).__name__} inside jax.shard_map. If its "
            "loop carries values that vary over different mesh axes, pass check_vma=False to shard_map."
        )
        raise
