"""Checks of the arguments of this package. They raise where the numbers are known. Traced numbers cannot raise."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def known(*arrays: ArrayLike | None) -> bool:
    """Whether none of the arrays is traced."""
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def as_floats(x: ArrayLike) -> Array:
    """The array. Integers and bools become floats."""
    array = jnp.asarray(x)
    return array.astype(jnp.result_type(array, float))


def check_shapes(caller: str, first: str, shape: tuple[int, ...], others: Mapping[str, ArrayLike | None]) -> None:
    """Raises ValueError if an array has another shape than the first one."""
    for name, x in others.items():
        if x is not None and np.shape(x) != shape:
            raise ValueError(f"{caller}: {name} has shape {np.shape(x)}; it must be {shape}, like {first}")


def kept(mask: ArrayLike | None, shape: tuple[int, ...], caller: str) -> Array:
    """The mask as bools of this shape. None keeps everything.

    Raises:
        ValueError: nothing is kept.
    """
    if mask is None:
        return jnp.ones(shape, bool)
    if known(mask) and not np.any(np.asarray(mask)):
        raise ValueError(f"{caller}: mask is False everywhere, so nothing is left; it must be True for what to keep")
    return jnp.asarray(mask, bool)


def check_no_nan(caller: str, name: str, x: ArrayLike, mask: ArrayLike | None) -> None:
    """Raises ValueError if a kept entry is nan."""
    if known(x, mask):
        bad = np.isnan(np.asarray(x)) & (True if mask is None else np.asarray(mask, bool))
        if bad.any():
            place = ", ".join(str(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{caller}: {name}[{place}] is nan; fix what computes it, or leave it out with mask= if it is padding"
            )
