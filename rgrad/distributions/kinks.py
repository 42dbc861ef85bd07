"""Correct derivatives of smooth functions whose formulas contain kinks that cancel, at these kinks."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from rgrad.tracing.traced import bind

Beside = Callable[[], Array]  # the value at a nearby point, computed when it is first needed
Pair = tuple[Any, Beside | None]  # the values at the point and nearby; None if they do not depend on the parameters


def beside_kinks(f: Callable[[Any], Array], x: Any) -> Array:
    """`f(x)`. Its derivatives in the variables that f closes over are correct even at a kink of one of its parts.

    `softplus(l)`, written as `max(l, 0) + log1p(exp(-|l|))`, is smooth. But at l = 0, JAX takes 1/2 as the slope of
    `max` (the middle) and 1 as that of `|l|` (from the right), so the sum is 0, not 1/2. All parts must use the same
    side. So at a tie, each part takes the branch that it takes if all parameters are moved a little, in one direction.
    A tie is `max` or `min` of equal numbers, `abs` or `sign` of 0, or a comparison of equal numbers. If f is smooth,
    the direction does not matter. If it has a real kink, the result is a one-sided derivative.

    A `where` whose condition is a tie takes that branch only if its two branches have the same value. If they differ,
    the `where` protects one of them from a point at which it is not defined, and is not changed.

    Derivatives are correct to every order, because each branch is a smooth function. The bodies of `scan`, `while` and
    `cond` are not changed.
    """
    try:
        closed = jax.make_jaxpr(lambda x: f(x))(x)  # a new function, because JAX caches known ones
    except jax.errors.JAXTypeError:  # f inspects concrete values, so it can be called but not traced
        return f(x)
    # The value of a tracer may be a Python float, which the derivative of a bare `max` does not accept in jax 0.11 and 0.12.
    closed = closed.replace(consts=[jnp.asarray(c) if _is_live(c) else c for c in closed.consts])
    leaves = jax.tree.leaves(x)
    live = [_is_live(c) for c in closed.consts]
    if not _find(closed.jaxpr, [*live, *(False for _ in leaves)])[0]:
        return jaxpr_as_fun(closed)(*leaves)[0]
    consts = [
        (c, _moved(i, c) if moves else None) for i, (c, moves) in enumerate(zip(closed.consts, live, strict=True))
    ]
    ((out, _),) = _run(closed.jaxpr, [*consts, *((leaf, None) for leaf in leaves)])
    value = lax.stop_gradient(jaxpr_as_fun(closed)(*leaves)[0])
    # Keep the value of f. Above, the sign of 0 may be 1 or -1, and two branches may differ by rounding.
    return out + jnp.where(jnp.isfinite(out) & jnp.isfinite(value), value - lax.stop_gradient(out), 0)


def _is_live(c: Any) -> bool:
    return isinstance(c, jax.core.Tracer) and jnp.issubdtype(c.dtype, jnp.floating)


def _moved(number: int, c: Array) -> Beside:
    """A function that computes a constant near c. Each entry moves by a different step, to break ties."""

    def make() -> Array:
        at = jnp.asarray(lax.stop_gradient(c))
        golden = 0.6180339887 * (jnp.arange(at.size, dtype=at.dtype).reshape(at.shape) + number + 1)
        # Downwards: a probability rounded to the upper end of a clamp then has the slope of the inside.
        return at - (0.5 + golden % 1) * jnp.finfo(at.dtype).eps ** 0.5 * (1 + jnp.abs(at))

    return cache(make)


def _run(jaxpr: Any, ins: Sequence[Pair]) -> list[Pair]:
    """The results of a jaxpr, both at the point and beside it."""
    known: dict[Any, Pair] = dict(zip([*jaxpr.constvars, *jaxpr.invars], ins, strict=True))
    read = lambda atom: (atom.val, None) if isinstance(atom, Literal) else known[atom]
    for equation in jaxpr.eqns:
        outs = _step(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _step(equation: Any, pairs: Sequence[Pair]) -> list[Pair]:
    values, moves = [value for value, _ in pairs], [beside is not None for _, beside in pairs]
    if not any(moves) or equation.primitive.name == "stop_gradient":
        return [(out, None) for out in bind(equation, values)]
    if (inner := _inner(equation)) is not None and _find(inner.jaxpr, [*(False for _ in inner.consts), *moves])[0]:
        return _run(inner.jaxpr, [*((c, None) for c in inner.consts), *pairs])
    sides = cache(lambda: [value if beside is None else beside() for value, beside in pairs])
    make = cache(lambda: bind(equation, sides()))
    outs = bind(equation, values)
    if _is_kink(equation, moves):
        outs = [KINKS[equation.primitive.name](outs[0], values, sides())]
    if equation.primitive.name in COMPARISONS:
        return [(outs[0], cache(lambda: jnp.where(values[0] == values[1], make()[0], outs[0])))]
    return [(out, lambda i=i: make()[i]) for i, out in enumerate(outs)]  # type: ignore[misc]


def _find(jaxpr: Any, moves: Sequence[bool]) -> tuple[bool, list[bool]]:
    """Whether a jaxpr has kinks that depend on the parameters, and which of its results depend on them."""
    moving = {v for v, m in zip([*jaxpr.constvars, *jaxpr.invars], moves, strict=True) if m}
    found = False
    is_moving = lambda atom: not isinstance(atom, Literal) and atom in moving
    for equation in jaxpr.eqns:
        ins = [is_moving(atom) for atom in equation.invars]
        if not any(ins) or equation.primitive.name == "stop_gradient":
            continue
        outs = [True for _ in equation.outvars]
        if (inner := _inner(equation)) is not None:
            inside, outs = _find(inner.jaxpr, [*(False for _ in inner.consts), *ins])
            found |= inside
        found |= _is_kink(equation, ins)
        moving |= {v for v, m in zip(equation.outvars, outs, strict=True) if m}
    return found, [is_moving(atom) for atom in jaxpr.outvars]


def _is_kink(equation: Any, moves: Sequence[bool]) -> bool:
    if equation.primitive.name == "select_n":
        # The condition depends on the parameters; floats only, and two branches only.
        return moves[0] and len(moves) == 3 and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
    return equation.primitive.name in KINKS


def _inner(equation: Any) -> ClosedJaxpr | None:
    """The jaxpr of a nested `jit`, or of a custom derivative that is only a kink, e.g. `relu`; otherwise None."""
    if equation.primitive.name in ("jit", "pjit", "closed_call"):
        return equation.params["jaxpr" if "jaxpr" in equation.params else "call_jaxpr"]
    inner = equation.params.get("call_jaxpr") if equation.primitive.name == "custom_jvp_call" else None
    return inner if inner is not None and all(_is_only_a_kink(e) for e in inner.jaxpr.eqns) else None


def _is_only_a_kink(equation: Any) -> bool:
    inner = _inner(equation)
    return equation.primitive.name in KINKS or (inner is not None and all(map(_is_only_a_kink, inner.jaxpr.eqns)))


def _abs(out: Array, at: list[Any], beside: list[Array]) -> Array:
    side = jnp.sign(beside[0])
    return jnp.where((at[0] == 0) & (jnp.abs(side) == 1), at[0] * side, out)


def _sign(out: Array, at: list[Any], beside: list[Array]) -> Array:
    side = jnp.sign(beside[0])
    return jnp.where((at[0] == 0) & (jnp.abs(side) == 1), side, out)


def _max(out: Array, at: list[Any], beside: list[Array]) -> Array:
    return jnp.where((at[0] == at[1]) & (beside[0] != beside[1]), jnp.where(beside[0] > beside[1], at[0], at[1]), out)


def _min(out: Array, at: list[Any], beside: list[Array]) -> Array:
    return jnp.where((at[0] == at[1]) & (beside[0] != beside[1]), jnp.where(beside[0] < beside[1], at[0], at[1]), out)


def _clamp(out: Array, at: list[Any], beside: list[Array]) -> Array:
    (low, x, high), (low_beside, beside_x, high_beside) = at, beside
    at_edge = (low < high) & ((x == low) | (x == high))
    inside = (low_beside < beside_x) & (beside_x < high_beside)
    return jnp.where(at_edge, jnp.where(inside, x, jnp.where(x == low, low, high)), out)


def _select(out: Array, at: list[Any], beside: list[Array]) -> Array:
    which, if_false, if_true = at
    size = jnp.abs(if_true) + jnp.abs(if_false)
    near = (jnp.abs(if_true - if_false) <= 100 * jnp.finfo(out.dtype).eps * size) & jnp.isfinite(size)
    return jnp.where((beside[0] != which) & near, jnp.where(beside[0], if_true, if_false), out)


KINKS: dict[str, Callable[[Array, list[Any], list[Array]], Array]] = {
    "abs": _abs, "sign": _sign, "max": _max, "min": _min, "clamp": _clamp, "select_n": _select,
}  # fmt: skip
"""Maps from JAX's result, the operands at the point, and the operands beside it to the result to use."""
COMPARISONS = ("lt", "le", "gt", "ge")
