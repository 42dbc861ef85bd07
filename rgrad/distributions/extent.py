"""The support of another library's distribution: whether it is the whole space, and which numbers may bound it.

The score function omits the edge of a support that moves with a parameter. So a number that may move it is named here,
even if it may not. A support that nothing tells about is assumed to be fixed, as `rgrad.Distribution` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints

from rgrad.distributions.adapted import Adapted
from rgrad.distributions.support import edges
from rgrad.distributions.twins import DISTRAX, DISTREQX, FLOWJAX, TFP, twin_of, unwrapped_parameters

# Maps of the real line, or of a real space, onto itself, whatever their parameters are.
ONTO = {
    "Identity", "Shift", "Scale", "Loc", "Affine", "ScalarAffine", "AffineScalar", "AdditiveCondition", "TriangularAffine",
    "DiagLinear", "TriangularLinear", "DiagPlusLowRankLinear", "UnconstrainedAffine", "LowerUpperTriangularAffine",
    "ScaleMatvecDiag", "ScaleMatvecLU", "ScaleMatvecTriL", "ScaleMatvecLinearOperator", "MatvecLU", "Householder",
    "DiscreteCosine", "Permute", "Flip", "Reshape", "Transpose", "Cumsum", "Chain", "Scan", "Vmap", "Invert", "Inverse",
    "Block", "Blockwise", "Concatenate", "Stack", "Sandwich", "Indexed", "JointMap", "Coupling", "SplitCoupling",
    "MaskedCoupling", "RealNVP", "MaskedAutoregressive", "MaskedAutoregressiveFlow", "BlockAutoregressiveNetwork", "Planar",
    "RationalQuadraticSpline", "LeakyTanh", "_LeakyTanh", "SinhArcsinh", "NumericalInverse",
}  # fmt: skip
FUNCTIONS = {"Lambda", "Inline", "_CallableToBijection"}  # maps that are made of plain functions
ENDS = ("low", "high", "minval", "maxval", "minimum", "maximum")
NESTED = 12  # levels at which maps are searched for in the attributes of others


class SupportExtent(NamedTuple):
    whole: bool
    """Whether the support is certainly the whole real line, or the whole real space."""
    bounds: list[Array]
    """The numbers that may bound the support."""
    hidden: bool = False
    """Whether a map is a plain function, which may close over further numbers that bound the support."""


def extent(q: Any) -> SupportExtent:
    """The extent of the support of `q`, a distribution of any library."""
    if isinstance(q, Adapted):
        return SupportExtent(False, list(q.support))
    if (twin := twin_of(q)) is not None:
        return SupportExtent(twin.support is constraints.real or _is_real_space(twin.support), edges(twin))
    if not hasattr(q, "log_prob"):
        return SupportExtent(False, [])
    base, way = _base_and_map(q)
    if base is not None:
        whole, bounds, hidden = extent(base)
        for step in _steps(way):
            maps = list(_maps(step))
            onto = bool(maps) and all(_is_onto(type(part)) for part in maps)
            bounds = bounds if whole and onto else [*bounds, *_arrays(step)]
            hidden |= not maps or any(type(part).__name__ in FUNCTIONS for part in maps)
            whole = whole and onto
        return SupportExtent(whole, bounds, hidden)
    bounds = [x for name in ENDS for x in _arrays(getattr(q, name, None))]
    if callable(default := getattr(q, "experimental_default_event_space_bijector", None)):  # TFP
        with suppress(NotImplementedError):
            bounds += _arrays(default())
    inner = [x for part in vars(q).values() for x in jax.tree.leaves(part, is_leaf=_is_distribution)] if hasattr(
        q, "__dict__") else []  # fmt: skip
    parts = [extent(part) for part in inner if _is_distribution(part)]
    return SupportExtent(False, sum([part.bounds for part in parts], bounds), any(part.hidden for part in parts))


def _is_onto(kind: type) -> bool:
    return kind.__name__ in ONTO and kind.__module__.startswith((TFP, DISTRAX, DISTREQX, FLOWJAX))


def _is_distribution(x: Any) -> bool:
    return hasattr(x, "log_prob") and hasattr(x, "sample") and not isinstance(x, type)


def _is_real_space(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real


def _base_and_map(q: Any) -> tuple[Any, Any]:
    """The base distribution and its map, if `q` is a transformed distribution."""
    for base, way in (("base_dist", "bijection"), ("distribution", "bijector")):
        if hasattr(q, base) and hasattr(q, way):
            return getattr(q, base), getattr(q, way)
    return None, None


def _steps(way: Any) -> list[Any]:
    """The maps of a chain, in the order in which a sample passes through them."""
    if type(way).__name__ != "Chain":
        return [way]
    steps = list(way.bijections) if hasattr(way, "bijections") else list(way.bijectors)[::-1]
    return [inner for step in steps for inner in _steps(step)]


def _maps(way: Any, depth: int = 0) -> Iterator[Any]:
    """Yields a map and all maps in its attributes."""
    if isinstance(way, list | tuple | dict):
        for part in way.values() if isinstance(way, dict) else way:
            yield from _maps(part, depth)
    elif depth < NESTED and not isinstance(way, type) and (hasattr(way, "forward") or hasattr(way, "transform")):
        if hasattr(way, "inverse") or hasattr(way, "inverse_and_log_det"):
            yield way
        for part in getattr(way, "__dict__", {}).values():
            yield from _maps(part, depth + 1)


def _arrays(tree: Any) -> list[Array]:
    """The floats in a pytree. TFP holds some of them in objects that compute them."""
    leaves = jax.tree.leaves(unwrapped_parameters(tree))
    found = [leaf + 0 if hasattr(leaf, "pretransformed_input") else leaf for leaf in leaves]
    return [x for x in found if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.inexact)]
