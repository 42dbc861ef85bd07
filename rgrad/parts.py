"""The part of a model that is trained, and the rest of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.parameters import WHOLE, numbers

TRAINED, CARRIED, STATIC = "trained", "carried", "static"


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["structure", "kinds", "static"])
@dataclass(frozen=True)
class Rest:
    """What is not trained: arrays of integers, PRNG keys, functions, texts, ... It is the same before and after a fit."""

    arrays: list[Array]
    structure: Any
    kinds: tuple[str, ...]
    static: tuple[Any, ...]

    def join(self, trained: Any) -> Any:
        """The whole model."""
        of = {TRAINED: iter(jax.tree.leaves(trained)), CARRIED: iter(self.arrays), STATIC: iter(self.static)}
        return jax.tree.unflatten(self.structure, [next(of[kind]) for kind in self.kinds])


def split(params: Any, caller: str = "fit", trained: str = "fitted") -> tuple[Any, Rest | None]:
    """The parameters that are trained, in the structure of the model with None elsewhere; and the rest, None if empty.

    Args:
        caller: the function that the error messages name.
        trained: what it does with a parameter, for the error messages.

    Raises:
        ValueError: nothing can be trained, or a number is not a number.
        TypeError: a Python integer, or an array of one integer. It would silently never be trained.
    """
    found = jax.tree_util.tree_leaves_with_path(params)
    kinds = tuple(
        _kind(leaf, jax.tree_util.keystr(path, simple=True, separator=".") or WHOLE, caller, trained)
        for path, leaf in found
    )
    if TRAINED not in kinds:
        raise ValueError(f"{caller}: params must contain at least one number or array of floats, got {params!r}")
    if set(kinds) == {TRAINED}:
        return jax.tree.map(jnp.asarray, params), None
    leaves, structure = jax.tree.flatten(params)
    of = lambda wanted: [leaf for leaf, kind in zip(leaves, kinds, strict=True) if kind == wanted]
    floats = [jnp.asarray(leaf) if kind == TRAINED else None for leaf, kind in zip(leaves, kinds, strict=True)]
    return jax.tree.unflatten(structure, floats), Rest(
        list(map(jnp.asarray, of(CARRIED))), structure, kinds, tuple(of(STATIC))
    )


def _kind(leaf: Any, name: str, caller: str, trained: str) -> str:
    if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return CARRIED
    if isinstance(leaf, str | bytes):  # it may be the name of a dtype
        return STATIC
    try:
        dtype = jnp.result_type(leaf)
    except TypeError:
        if callable(leaf):
            return STATIC
        dtype = numbers(leaf, f"{caller}: parameter {name}").dtype  # its error says what is wrong
    if jnp.issubdtype(dtype, jnp.floating):
        return TRAINED
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"{caller}: parameter {name} is complex; {caller} its real and imaginary parts")
    # An unsigned number is the state of a generator, e.g. in a module with dropout.
    if np.ndim(leaf) == 0 and not isinstance(leaf, bool | np.bool_) and not jnp.issubdtype(dtype, jnp.unsignedinteger):
        raise TypeError(
            f"{caller}: parameter {name} = {leaf} is not a float, so it cannot be {trained}; write {leaf}.0"
        )
    return CARRIED
