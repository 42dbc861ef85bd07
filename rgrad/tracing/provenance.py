"""Where an array comes from: whether a baseline was computed from the values, and whether values are copies.

The answer is read from the trace around the call (of `jax.jit` or anything built on it), as far as JAX keeps it.
Without a trace, only the numbers themselves can be compared.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rgrad.tracing.dependence import RULES

MOVES_ONLY = {"broadcast_in_dim", "reshape", "gather", "squeeze", "expand_dims", "transpose", "tile", "concatenate", "slice", "convert_element_type", "copy"}  # fmt: skip
CALLS = {"jit", "pjit"}


def check_not_made_of(baseline: Any, values: Any) -> None:
    """Raises an error if an array of baselines was computed from the values.

    In a trace, the check looks for a path to the baseline from the values, or from an array of which they are an
    elementwise function. Without a trace, it compares numbers: the baseline must not be exactly the mean of the values,
    and its entries must not all be values. It can tell this only if all values are different.

    Raises:
        ValueError: the baseline was computed from the values.
    """
    if not isinstance(baseline, jax.Array | np.ndarray | np.generic):
        return  # e.g. a Python number
    b, v = _lowest(baseline), _lowest(values)
    if _is_in_trace(b) and _is_in_trace(v):
        if any(_same(x, source) for source in _elementwise_sources(v) for x in _ancestors(b)):
            raise ValueError(_made_of_values("is computed from the values of the same call"))
        return
    if isinstance(b, jax.core.Tracer) or isinstance(v, jax.core.Tracer):
        return
    numbers, found = np.ravel(np.asarray(v)), np.asarray(b)
    if numbers.dtype.kind != "f" or not len(np.unique(numbers)) == len(numbers) > 1:
        return
    means = (np.asarray(jnp.mean(v)), numbers.mean(), numbers.mean(dtype=float))
    if any(np.all(found == mean) for mean in means) or np.all(np.isin(found, numbers)):
        raise ValueError(_made_of_values("is the mean of the values of the same call, or consists of them"))


def _made_of_values(what: str) -> str:
    return (
        f"surrogate: the baseline {what}, so each entry uses its own value, which biases the gradient (the plain mean "
        "shrinks it by 1 - 1/n). Use rgrad.leave_one_out, or give the baseline as a function of the values, which is "
        "checked; if entry i does not use sample i, declare this by rgrad.independent(baseline)"
    )


def check_no_copies(values: Any, groups: Any, mask: Any) -> Array | None:
    """Raises an error if two values of one group are copies of one number.

    For example, the value of an answer may be repeated for each of its tokens. The mean of the others then contains the
    answer's own value.

    Returns:
        A traced bool if this is known only at run time; otherwise None.

    Raises:
        ValueError: two values of one group are copies.
    """
    places = _copied_from(values)
    n = values.size
    if places is None or len(np.unique(places)) == n:
        return None
    groups = np.zeros(n, int) if groups is None else groups
    keep = np.ones(n, bool) if mask is None else mask
    known = [_known(x) for x in (groups, keep)]
    if all(x is not None for x in known):
        ids, kept = (np.ravel(x) for x in known)
        if len(np.unique(np.stack([ids, places])[:, kept.astype(bool)], axis=1).T) < kept.sum():
            raise ValueError(
                "surrogate: values of one group are copies of one number (e.g. the value of an answer, repeated for "
                "its tokens), so leave_one_out does not leave it out. Give one value and one summed log_prob for each "
                "answer, or groups in which each answer has one entry"
            )
        return None
    ids = jnp.unique(jnp.asarray(groups), return_inverse=True, size=n)[1].reshape(-1)
    of_pairs = ids * (int(places.max()) + 1) + places
    ordered = jnp.sort(jnp.where(jnp.asarray(keep, bool), of_pairs, -1 - jnp.arange(n)))
    return (ordered[1:] == ordered[:-1]).any()


def _lowest(x: Any) -> Any:
    """The value behind the tracers of derivatives and vmap."""
    while isinstance(x, jax.core.Tracer) and _below(x) is not None:
        x = _below(x)
    return x


def _below(x: Any) -> Any:
    below = getattr(x, "primal", None)
    return getattr(x, "val", None) if below is None and hasattr(x, "batch_dim") else below


def _is_in_trace(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer) and hasattr(x, "parent")


def _same(a: Any, b: Any) -> bool:
    return a is b or (getattr(a, "val", a) is getattr(b, "val", b))


def _inputs(x: Any) -> list[Any]:
    equation = getattr(x, "parent", None)
    return [] if equation is None else [i for i in equation.in_tracers if _is_in_trace(i)]


def _ancestors(x: Any) -> Iterator[Any]:
    """Yields `x` and everything that it is computed from, in its own trace."""
    seen = set()
    todo = [x]
    while todo:
        x = todo.pop()
        if id(getattr(x, "val", x)) not in seen:
            seen.add(id(getattr(x, "val", x)))
            yield x
            todo.extend(_inputs(x))


def _elementwise_sources(x: Any) -> Iterator[Any]:
    """Yields `x`, the one array of the same size that it was computed from, and so on: for v = 2 * r, also r."""
    while True:
        yield x
        inputs = _inputs(x)
        of_its_size = [i for i in inputs if i.size == x.size]
        if x.size < 2 or len(of_its_size) != 1 or any(i.size > 1 for i in inputs if i is not of_its_size[0]):
            return
        (x,) = of_its_size


def _known(x: Any) -> Any:
    """`x` as a NumPy array if it is a constant, or is computed from constants in the trace; otherwise None."""
    try:
        if not _is_constant(x):
            return None
        with jax.ensure_compile_time_eval():
            return np.asarray(_evaluated(x))
    except Exception:  # an argument of the traced function, or a version of JAX with other traces
        return None


def _is_constant(x: Any) -> bool:
    """Whether `x` depends on no argument of the trace. Nothing is evaluated: each operation would be compiled."""
    seen, todo = set(), [x]
    while todo:
        x = todo.pop()
        if not isinstance(x, jax.core.Tracer) or id(getattr(x, "val", x)) in seen:
            continue
        seen.add(id(getattr(x, "val", x)))
        if (equation := getattr(x, "parent", None)) is not None:
            todo.extend(equation.in_tracers)
        elif isinstance(x.full_lower(), jax.core.Tracer):
            return False
    return True


def _evaluated(x: Any) -> Any:
    """The value of a constant."""
    if not isinstance(x, jax.core.Tracer):
        return x
    if (equation := getattr(x, "parent", None)) is None:
        return x.full_lower()
    (found,) = _bound(equation, [_evaluated(i) for i in equation.in_tracers])
    return found


def _bound(equation: Any, inputs: list[Any]) -> list[Any]:
    found = equation.primitive.bind(*inputs, **equation.params)
    return list(found) if equation.primitive.multiple_results else [found]


def _copied_from(values: Any) -> Any:
    """For each value, the index of the number that it is a copy of, shape `(n,)`. None if this cannot be determined."""
    levels, x = [], values
    while isinstance(x, jax.core.Tracer) and not _is_in_trace(x):
        if hasattr(x, "batch_dim"):
            levels.append(x.batch_dim)
        x = _below(x)
    if not _is_in_trace(x):
        return _copied_numbers(x) if isinstance(x, jax.Array | np.ndarray) and not levels else None
    chain = []
    while (step := _moved_only(x)) is not None:
        chain.append(step)
        x = step[1]
    try:
        places = np.arange(x.size, dtype=np.float32).reshape(x.shape)
        for equation, array in reversed(chain):
            if equation.primitive.name in MOVES_ONLY | CALLS:
                with jax.ensure_compile_time_eval():
                    moved = jnp.asarray(places)
                    inputs = [moved if i is array else _evaluated(i) for i in equation.in_tracers]
                    places = np.asarray(_bound(equation, inputs)[0], np.float32)
            else:
                places = np.broadcast_to(places, equation.outvars[0].aval.shape)
        for axis in reversed(levels):
            places = np.take(places, 0, axis) if isinstance(axis, int) else places
        return places.ravel().astype(int)
    except Exception:  # this version of JAX has other traces
        return None


def _moved_only(x: Any) -> tuple[Any, Any] | None:
    """The equation of `x` and its only float array, if it moves or maps the elements one by one; otherwise None."""
    equation = getattr(x, "parent", None)
    if equation is None or len(equation.outvars) != 1:
        return None
    name = equation.primitive.name
    moves = name in MOVES_ONLY or (name in CALLS and _only_moves(equation.params["jaxpr"].jaxpr))
    if not moves and RULES.get(name) not in (RULES["add"], RULES["mul"]):
        return None
    floats = [i for i in equation.in_tracers if _is_in_trace(i) and jnp.issubdtype(i.dtype, jnp.inexact)]
    arrays = [i for i in floats if not _is_constant(i)]
    if len(arrays) != 1:
        return None
    others = [_known(i) for i in equation.in_tracers if i is not arrays[0]]
    if any(other is None for other in others):
        return None
    return (equation, arrays[0]) if moves or all(len(np.unique(o)) == 1 for o in others) else None


def _copied_numbers(x: Any) -> Any:
    """The index of each number among the distinct ones, if each occurs twice and not by chance; otherwise None."""
    numbers, places, counts = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    odd = numbers.dtype.kind == "f" and len(numbers) >= 4 and np.all(numbers * 4 != np.rint(numbers * 4))
    return places.ravel() if odd and counts.min() > 1 else None


def _only_moves(jaxpr: Any) -> bool:
    """Whether a jaxpr only moves its floats. Its integers may be indices."""
    for eqn in jaxpr.eqns:
        floats = any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.invars)
        if floats and eqn.primitive.name in CALLS:
            if not _only_moves(eqn.params["jaxpr"].jaxpr):
                return False
        elif floats and eqn.primitive.name not in MOVES_ONLY:
            return False
    return True


def nan_if(bad: Array | None) -> Any:
    """A factor: nan if `bad` is true, and 1 if it is false or None."""
    return 1.0 if bad is None else lax.stop_gradient(jnp.where(bad, jnp.nan, 1.0))
