"""Parts of a step of `fit`: what it compares, and what it keeps if a number is not finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def like(tree: Any, model: Any) -> Any:
    """The same numbers with the dtypes of `model`, as a loop requires."""
    return jax.tree.map(lambda x, m: jnp.asarray(x, jnp.result_type(m)), tree, model)


def keep_floats(good: Array, new: Any, old: Any) -> Any:
    """The new state of an optimizer if the step was good, else the old one.

    Its counters advance in any case, because nothing depends on them in a fit that has stopped. They are then the same
    in all fits of a `vmap`, so Adam computes one power of its decay rates, and not one for each fit.
    """
    moves = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jax.tree.map(lambda n, o: jnp.where(good, n, o) if moves(o) else n, new, old)


def all_finite(tree: Any) -> Array:
    """Whether all floats in the tree are finite, shape `()`."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]).all() if floats else jnp.asarray(True)
