"""Operations of `Moments` that work for NumPy arrays and for traced ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtri, stdtrit

Tree = Any


def where(condition: Any, x: Any, y: Any) -> Any:
    return (jnp if isinstance(condition, Array) else np).where(condition, x, y)


def nan_unless(condition: Any, x: Any) -> Any:
    return where(condition, x, np.nan)


def positive(x: Any) -> Any:
    return nan_unless(x > 0, x)


def beside(n: Any, leaf: Any) -> Any:
    """`n` with axes added at the end, to broadcast against a leaf. (Under vmap the batch axes come first.)"""
    return n.reshape(n.shape + (1,) * (leaf.ndim - n.ndim))


def map_beside(function: Callable[..., Any], n: Any, *trees: Tree) -> Tree:
    with np.errstate(all="ignore"):  # the results say nan or inf
        return jax.tree.map(lambda *leaves: function(beside(n, leaves[0]), *leaves), *trees)


def unseen(level: float, n: Any) -> Any:
    """The largest probability of an event that n draws do not show, at the confidence `level`."""
    return -(jnp if isinstance(n, Array) else np).expm1(np.log1p(-level) / n)


def two_sided(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"Moments: level must be between 0 and 1 (e.g. 0.95), got {level}")
    return float(ndtri(0.5 + level / 2))


def student_t(level: float, freedom: Any) -> Any:
    """Student's t, two-sided quantile. If traced, by Abramowitz and Stegun 26.7.5, within 1e-3 for freedom >= 5."""
    z = two_sided(level)
    if not isinstance(freedom, jax.core.Tracer):
        return stdtrit(positive(np.asarray(freedom, np.float64)), 0.5 + level / 2)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    f = positive(freedom)
    return z + g1 / f + g2 / f**2 + g3 / f**3 + g4 / f**4
