"""Where the support of `q` moves with the parameters, a score function misses the moving edge."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rgrad.attach import forbid
from rgrad.draws import name_of


def forbid_moving_support(terms: Array, q: Any, caller: str) -> Array:
    """`terms` as they are; differentiating a parameter that moves the support of `q` raises at trace time.

    For x ~ Uniform(0, theta) the derivative of `E[x]` is +1/2, and `E[x d log q]` is -1/2: the density at the edge is
    left out (Leibniz). Only the derivative raises, so Uniform(0, 1) with constant bounds is a distribution like another.
    """
    message = (
        f"{caller}: the support of {name_of(q)} depends on a parameter that is being differentiated, and the score "
        "leaves out the moving edge (Uniform(0, theta) would give -0.5 for +0.5); use reparameterized, or hold the "
        "bounds constant"
    )
    for edge in edges(q):
        terms = forbid(terms, edge, message)
    return terms


def edges(q: Any) -> list[Any]:
    """The numbers that bound the support of `q`, as far as they can be differentiated."""
    found = jax.tree.leaves(getattr(q, "support", ()))
    base, transforms = getattr(q, "base_dist", None), getattr(q, "transforms", ())
    if base is not None and not transforms:
        found += edges(base)
    # NumPyro gives an affine image the support `real`, whatever it is the image of: an Exponential moved by loc has an
    # edge at loc. A scale moves an edge only where there is one off zero.
    bounds = _bounds(getattr(base, "support", None))
    for transform in transforms if bounds else ():
        if hasattr(transform, "loc") and hasattr(transform, "scale"):
            at_zero = all(isinstance(b, int | float) and b == 0 for b in bounds)
            found += [transform.loc] if at_zero else [transform.loc, transform.scale]
    return [x for x in found if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.inexact)]


def _bounds(support: Any) -> list[Any]:
    inner = getattr(support, "base_constraint", support)
    return [getattr(inner, name) for name in ("lower_bound", "upper_bound") if hasattr(inner, name)]
