"""Protection of counts against overflow: the square of a 32-bit integer overflows long before that of a float."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from rgrad.distributions.keyed import base_of, sample_of
from rgrad.distributions.wrappers import elementary
from rgrad.errors import Unsuitable
from rgrad.protocols import Objective

SQUARED = 46_340
"""The largest integer whose square fits into 32 bits."""
MULTIPLIES = {"mul", "integer_pow", "pow", "dot_general", "reduce_sum", "reduce_prod", "cumsum", "cumprod"}
ONLY_INTEGERS = {
    "gather",
    "dynamic_slice",
    "dynamic_update_slice",
    "and",
    "or",
    "xor",
    "not",
    "population_count",
    "clz",
}
ONLY_INTEGERS |= {"shift_left", "shift_right_logical", "shift_right_arithmetic", "while", "scan", "cond"}


def of_counts(f: Objective, q: Any, caller: str, largest: float | None = None) -> Objective:
    """f for the samples of `q`, protected against overflow if the counts may be too large to be squared.

    In int32, the square of 50,000 is negative. So f receives the count as a float if it multiplies or sums integers.
    Otherwise f receives the integer itself and may use it as an index. If f does both, counts above 46,340 give nan. A
    count at either end of int32 also gives nan, because the sampler saturates there.

    Args:
        largest: the largest value, if it is known more precisely than from `q.support`.

    Raises:
        ValueError: the rate of a Poisson is known, and exceeds the largest int32.
    """
    if not may_overflow(q, caller, largest):
        return f

    x_only = base_of(q) is q

    def counted(sample: Any) -> Any:
        x = sample_of(q, sample)
        if not are_integers(x):
            return f(sample)
        again = lambda x: f(x if x_only else (x, sample[1]))
        as_float = jax.ShapeDtypeStruct(x.shape, jnp.result_type(float))
        wide = lambda kind: any(_multiplies(eqn) for eqn in _equations(jax.make_jaxpr(again)(kind).jaxpr))
        bad = _saturated(x)
        values: Any
        if not wide(jax.ShapeDtypeStruct(x.shape, x.dtype)):
            values = again(x)
        elif _takes(again, x, as_float) and not wide(as_float):
            values = again(x.astype(float))
        else:
            values, bad = again(x), bad | (jnp.abs(x) > SQUARED)
        return jnp.where(bad.any(), jnp.nan, 1.0) * values if hasattr(values, "dtype") else values

    return counted


def may_overflow(q: Any, caller: str, largest: float | None = None) -> bool:
    """Whether samples of `q`, if they are integers, may be too large to be squared in 32 bits.

    Raises:
        ValueError: as `of_counts`.
    """
    base = base_of(q)
    one = elementary(base)
    if (
        isinstance(one, dist.Poisson)
        and not isinstance(one.rate, jax.core.Tracer)
        and np.any(np.asarray(one.rate) > 2.1e9)
    ):
        raise Unsuitable(
            f"{caller}: Poisson has rate {np.max(one.rate):.3g}, but its samples are integers of at most 2.1e9; use "
            "Normal(rate, sqrt(rate)), which agrees to 1e-5 for such rates"
        )
    return (largest if largest is not None else _largest(base)) > SQUARED


def are_integers(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.signedinteger)


def counts_as_floats(x: Array) -> Array:
    """Counts as floats. A count at either end of int32 is nan, because the sampler saturates there."""
    return jnp.where(_saturated(x), jnp.nan, x.astype(float))


def _saturated(x: Array) -> Array:
    ends = jnp.iinfo(x.dtype)
    return (x >= ends.max) | (x <= ends.min)


def _takes(f: Objective, x: Array, as_float: Any) -> bool:
    """Whether f, which accepts integers, also accepts floats. It does not if it uses its sample as an index."""
    equations = _equations(jax.make_jaxpr(f)(jax.ShapeDtypeStruct(x.shape, x.dtype)).jaxpr)
    if any(eqn.primitive.name in ONLY_INTEGERS and any(_is_integer(v) for v in eqn.invars) for eqn in equations):
        return False
    try:
        jax.eval_shape(f, as_float)
    except (TypeError, ValueError):  # f was just traced with integers, so the error is about floats
        return False
    return True


def _multiplies(eqn: Any) -> bool:
    return eqn.primitive.name in MULTIPLIES and any(_is_integer(v) for v in eqn.outvars)


def _is_integer(variable: Any) -> bool:
    return jnp.issubdtype(getattr(variable.aval, "dtype", float), jnp.signedinteger)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr, including those of the functions that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from _equations(getattr(inner, "jaxpr", inner))


def _largest(q: Any) -> float:
    """A bound on the absolute values of the samples. 0 if they are indices, bits, or not integers."""
    one = elementary(q)
    if isinstance(one, dist.CategoricalProbs | dist.CategoricalLogits | dist.BernoulliProbs | dist.BernoulliLogits):
        return 0.0
    support: Any = getattr(q, "support", None)
    if support is None and hasattr(q, "base_dist"):
        return _largest(q.base_dist)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is not None and not getattr(support, "is_discrete", True):
        return 0.0
    if type(support) is type(dist.constraints.boolean):
        return 1.0
    bounds = [getattr(support, "lower_bound", 0), getattr(support, "upper_bound", np.inf)]
    if any(isinstance(bound, jax.core.Tracer) for bound in bounds):
        return np.inf
    return float(max(np.max(np.abs(bound)) for bound in bounds))
