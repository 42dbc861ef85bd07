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
    return [x for x in _edges(q) if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.inexact)]


def _edges(q: Any) -> list[Any]:
    base, transforms = getattr(q, "base_dist", None), getattr(q, "transforms", None)
    if base is not None and transforms:
        # Not q.support: NumPyro gives an affine image the support `real`, whatever it is the image of.
        return [moved for edge in _edges(base) for moved in _image(edge, transforms)]
    parts = getattr(q, "component_distributions", None) or getattr(q, "component_distribution", None) or base
    inner = [
        edge
        for part in (parts if isinstance(parts, list | tuple) else [parts])
        if part is not None
        for edge in _edges(part)
    ]
    atom = [q.v] if type(q).__name__ == "Delta" else []
    return [*_bounds(getattr(q, "support", None)), *inner, *atom]


def _bounds(support: Any) -> list[Any]:
    """The bounds of one of NumPyro's constraints, constants included; or the leaves of any other pytree."""
    inner = getattr(support, "base_constraint", support)
    named = [getattr(inner, name) for name in ("lower_bound", "upper_bound") if hasattr(inner, name)]
    return named or jax.tree.leaves(support)


def _image(edge: Any, transforms: Any) -> list[Any]:
    """Where the transforms take an edge. An edge at 0 is moved by a loc and not by a scale."""
    for transform in transforms:
        if hasattr(transform, "parts"):
            (edge,) = _image(edge, transform.parts)
        elif hasattr(transform, "loc") and isinstance(edge, int | float) and edge == 0:
            edge = transform.loc
        else:
            try:
                edge = transform(edge)
            except (TypeError, ValueError, IndexError):  # a transform of vectors: hold all that it has
                return [edge, *jax.tree.leaves(transforms)]
    return [edge]
