"""Checks of a loss before it is fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rgrad.errors import check_takes
from rgrad.parts import Rest

NOT_DATA = "a state changes from step to step; if it is data, let the loss close over it and leave state out"


def check_loss(loss: Callable[..., Any], start: Any, rest: Rest | None, key: Array) -> Any:
    """The dtype of the loss. Raises an error if the loss does not return what it must."""
    whole = (lambda params: params) if rest is None else rest.join
    of = lambda params, *others: loss(whole(params), *others)
    if start.state is None:
        check_takes(loss, ("params", "key"), "fit: loss", "bind data with functools.partial, or pass a state")
        value = jax.eval_shape(of, start.params, key)
    else:
        check_takes(loss, ("params", "state", "key"), "fit: loss", NOT_DATA)
        returned = jax.eval_shape(of, start.params, start.state, key)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(f"fit: with a state, the loss must return (value, state), got {returned}; {NOT_DATA}")
        value, state = returned
        kind = lambda tree: (jax.tree.structure(tree), [jnp.shape(x) for x in jax.tree.leaves(tree)])
        if kind(state) != kind(start.state):
            raise ValueError(
                f"fit: the loss must return a state of the structure and shapes {kind(start.state)}, got {kind(state)}"
            )
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"fit: the loss must return a float scalar, got shape {getattr(value, 'shape', value)}; take a mean or a sum"
        )
    return value.dtype
