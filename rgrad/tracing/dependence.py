"""Which outputs of a function can depend on which of its inputs, from its jaxpr.

The analysis is conservative. An output counts as dependent unless the jaxpr shows that it is not. The difference of
two dependent numbers, for example, counts as dependent even if the dependence cancels.

Each variable of the jaxpr has a mask and a value. The mask, of shape `(K, *shape)`, says which elements may depend on
input k. It is None if none of them depends on any input. The value is a NumPy array if it is known at trace time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from rgrad.tracing.traced import parts_of_scan

LARGEST = 2**20  # arrays with more elements are not evaluated
LONGEST = 1024  # longer scans are not followed: each output may depend on whatever any operand depends on


class Abstract(NamedTuple):
    """What is known about one variable."""

    mask: Any
    """Bools of shape `(K, *shape)`; None if the variable depends on no input."""
    value: Any
    """A NumPy array; None if the value is not known at trace time."""
    shape: tuple[int, ...]


def dependence(function: Any, x: Any, places: Any) -> Any:
    """Whether each output of `function` may depend on the elements `places` of its argument.

    Args:
        function: a function of one array that returns one array. It may close over traced values.
        x: an array, or its `jax.ShapeDtypeStruct`.
        places: K indices into `x.ravel()`.

    Returns:
        A NumPy array of bools, shape `(K, *output_shape)`.
    """
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    mask = np.zeros((len(places), int(np.prod(x.shape))), bool)
    mask[np.arange(len(places)), places] = True
    arg = Abstract(mask.reshape(len(places), *x.shape), None, tuple(x.shape))
    with jax.ensure_compile_time_eval():
        (out,) = _jaxpr(closed.jaxpr, [_constant(c) for c in closed.consts], [arg])
    return _mask(out, len(places))


def _constant(x: Any) -> Abstract:
    known = not isinstance(x, jax.core.Tracer) and not jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
    return Abstract(None, np.asarray(x) if known else None, jnp.shape(x))


def _mask(x: Abstract, k: int) -> Any:
    return np.zeros((k, *x.shape), bool) if x.mask is None else x.mask


def _jaxpr(jaxpr: Any, consts: list[Abstract], args: list[Abstract]) -> list[Abstract]:
    known: dict[Any, Abstract] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda v: _constant(v.val) if isinstance(v, Literal) else known[v]
    for eqn in jaxpr.eqns:
        found = _equation(eqn, [read(v) for v in eqn.invars])
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, args: list[Abstract]) -> list[Abstract]:
    name, params = eqn.primitive.name, eqn.params
    shapes = [tuple(v.aval.shape) for v in eqn.outvars]
    inner = next((params[p] for p in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in CALLS and p in params), None)
    if inner is not None:
        jaxpr = getattr(inner, "jaxpr", inner)
        if len(jaxpr.invars) == len(args):
            return _jaxpr(jaxpr, [_constant(c) for c in getattr(inner, "consts", ())], args)
    sizes = [len(a.mask) for a in args if a.mask is not None]
    if not sizes:
        values = _evaluated(eqn, [a.value for a in args])
        return [Abstract(None, value, shape) for value, shape in zip(values, shapes, strict=True)]
    (k, *_) = sizes
    rule = RULES.get(name)
    masks = rule(eqn, args, k, shapes) if rule else None
    if masks is None:  # no rule, or one that gave up: assume that every output depends on all operands
        any_of = np.zeros(k, bool)
        for a in args:
            any_of |= _mask(a, k).reshape(k, -1).any(1)
        masks = [np.broadcast_to(any_of.reshape(k, *(1,) * len(shape)), (k, *shape)) for shape in shapes]
    return [Abstract(np.broadcast_to(m, (k, *shape)), None, shape) for m, shape in zip(masks, shapes, strict=True)]


def _evaluated(eqn: Any, values: list[Any]) -> list[Any]:
    """The outputs of an equation as NumPy arrays. None for each that is not known, e.g. because an input is traced."""
    inner = eqn.primitive.name in {*CALLS, "scan", "while", "cond", "pure_callback"}
    large = any(np.prod(v.aval.shape) > LARGEST for v in eqn.outvars)
    if inner or large or eqn.effects or any(v is None for v in values):
        return [None] * len(eqn.outvars)
    out = eqn.primitive.bind(*map(jnp.asarray, values), **eqn.params)
    keys = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [None if keys(x) else np.asarray(x) for x in (out if eqn.primitive.multiple_results else [out])]


def _elementwise(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    out = np.zeros((k, *shapes[0]), bool)
    for a in args:
        out |= _mask(a, k).reshape(k, *(a.shape or (1,) * len(shapes[0])))
    return [out]


def _product(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    """The rule of a product: an element does not depend on anything if one of its factors is known to be zero."""
    (out,) = _elementwise(eqn, args, k, shapes)
    for a in args:
        if a.value is not None:
            out &= (a.value != 0).reshape(a.shape or (1,) * len(shapes[0]))
    return [out]


def _select(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    which, *cases = args
    if which.value is None:
        return _elementwise(eqn, args, k, shapes)
    chosen = np.broadcast_to(which.value.astype(int), shapes[0])
    return [np.choose(chosen, [_mask(case, k).reshape(k, *(case.shape or (1,) * chosen.ndim)) for case in cases])]


def _reduction(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    axes = tuple(axis + 1 for axis in eqn.params["axes"])
    return [_mask(args[0], k).any(axes)]


def _cumulative(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    axis, back = eqn.params["axis"] + 1, eqn.params["reverse"]
    turn = (lambda m: np.flip(m, axis)) if back else (lambda m: m)
    return [turn(np.logical_or.accumulate(turn(_mask(args[0], k)), axis))]


def _sort(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    axis = eqn.params["dimension"] + 1
    any_of = np.logical_or.reduce([_mask(a, k).any(axis, keepdims=True) for a in args])
    return [np.broadcast_to(any_of, (k, *shape)) for shape in shapes]


def _rearranged(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    """The result of `_moved` for frequent operations, without compiling a program."""
    p, (m, *more) = eqn.params, [_mask(a, k) for a in args]
    match eqn.primitive.name:
        case "concatenate":
            return [np.concatenate([m, *more], p["dimension"] + 1)]
        case "stack":
            return [np.stack([m, *more], p["axis"] + 1)]
        case "slice":
            steps = p["strides"] or (1,) * (m.ndim - 1)
            return [m[(slice(None), *map(slice, p["start_indices"], p["limit_indices"], steps))]]
        case "transpose":
            return [m.transpose(0, *(axis + 1 for axis in p["permutation"]))]
        case "rev":
            return [np.flip(m, tuple(axis + 1 for axis in p["dimensions"]))]
        case "broadcast_in_dim":
            spread = [1] * len(shapes[0])
            for axis, size in zip(p["broadcast_dimensions"], m.shape[1:], strict=True):
                spread[axis] = size
            return [np.broadcast_to(m.reshape(k, *spread), (k, *shapes[0]))]
        case _:
            return [m.reshape(k, *shapes[0])]


def _moved(data: int) -> Any:
    """The rule of an operation that only moves elements: it moves the masks in the same way.

    The first `data` operands (all if -1) are moved. The others are indices, which must be known.
    """

    def rule(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
        last = len(args) if data < 0 else data
        if any(a.value is None for a in args[last:]):
            return None
        where = [jnp.asarray(a.value) for a in args[last:]]
        masks = [jnp.asarray(_mask(a, k), jnp.float32) for a in args[:last]]
        out = jax.vmap(lambda *masks: eqn.primitive.bind(*masks, *where, **eqn.params))(*masks)
        return [np.asarray(m) != 0 for m in (out if eqn.primitive.multiple_results else [out])]

    return rule


def _dot(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    dot = lambda a, b: lax.dot_general(a, b, eqn.params["dimension_numbers"]) > 0
    whole = lambda a: jnp.asarray(np.ones(a.shape) if a.value is None else a.value != 0, jnp.float32)
    out = np.zeros((k, *shapes[0]), bool)
    for i, a in enumerate(args):
        if a.mask is not None:
            other, mask = whole(args[1 - i]), jnp.asarray(a.mask, jnp.float32)
            out |= np.asarray(jax.vmap(lambda m, o=other, i=i: dot(m, o) if i == 0 else dot(o, m))(mask))
    return [out]


def _join(a: Abstract, b: Abstract, k: int) -> Abstract:
    return Abstract(None if a.mask is None and b.mask is None else _mask(a, k) | _mask(b, k), None, a.shape)


def _scan(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    p = eqn.params
    if p["length"] > LONGEST:
        return None
    fixed, carried = parts_of_scan(p)
    consts, carry, xs = args[:fixed], args[fixed:][:carried], args[fixed + carried :]
    body, outs = p["jaxpr"], [np.zeros((k, *shape), bool) for shape in shapes[carried:]]
    inner = [_constant(c) for c in body.consts]
    for t in reversed(range(p["length"])) if p["reverse"] else range(p["length"]):
        row = [
            Abstract(None if x.mask is None else x.mask[:, t], None if x.value is None else x.value[t], x.shape[1:])
            for x in xs
        ]
        found = _jaxpr(body.jaxpr, inner, [*consts, *carry, *row])
        carry = found[:carried]
        for out, y in zip(outs, found[carried:], strict=True):
            out[:, t] = _mask(y, k)
    return [*(_mask(c, k) for c in carry), *outs]


def _while(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    p = eqn.params
    of_test, rest = args[: p["cond_nconsts"]], args[p["cond_nconsts"] :]
    of_body, carry = rest[: p["body_nconsts"]], [a._replace(value=None) for a in rest[p["body_nconsts"] :]]
    part = lambda closed, args: _jaxpr(closed.jaxpr, [_constant(c) for c in closed.consts], args)
    while True:
        (test,) = part(p["cond_jaxpr"], [*of_test, *carry])
        if test.mask is not None and test.mask.any():  # the number of iterations depends on an input
            return None
        new = [_join(a, b, k) for a, b in zip(carry, part(p["body_jaxpr"], [*of_body, *carry]), strict=True)]
        if all(np.array_equal(_mask(a, k), _mask(b, k)) for a, b in zip(carry, new, strict=True)):
            return [_mask(c, k) for c in new]
        carry = new


def _cond(eqn: Any, args: Any, k: int, shapes: Any) -> Any:
    which, *rest = args
    if which.mask is not None and which.mask.any():
        return None
    branches = eqn.params["branches"]
    if which.value is not None:
        branches = [branches[int(np.clip(which.value, 0, len(branches) - 1))]]
    found = [_jaxpr(b.jaxpr, [_constant(c) for c in b.consts], rest) for b in branches]
    return [np.logical_or.reduce([_mask(x, k) for x in each]) for each in zip(*found, strict=True)]


CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat",
    "remat2",
}
ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp convert_element_type copy "
    "copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p "
    "logistic lt max min ne neg nextafter not or pow real reduce_precision rem round rsqrt sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor"
)
RULES: dict[str, Any] = {
    **dict.fromkeys(ELEMENTWISE.split(), _elementwise),
    "mul": _product,
    "select_n": _select,
    **dict.fromkeys(
        ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"],
        _reduction,
    ),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], _cumulative),
    "sort": _sort,
    **dict.fromkeys(
        ["broadcast_in_dim", "concatenate", "expand_dims", "reshape", "rev", "slice", "squeeze", "stack", "transpose"],
        _rearranged,
    ),
    **dict.fromkeys(("pad", "split", "tile", "unstack"), _moved(-1)),
    "gather": _moved(1),
    "dynamic_slice": _moved(1),
    "dynamic_update_slice": _moved(2),
    "dot_general": _dot,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
