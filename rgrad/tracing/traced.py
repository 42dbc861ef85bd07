"""What a jaxpr shows before it runs: which outputs can depend on an input, and which can only be 0 or 1."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxprs_in_params

INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call",
                     "custom_vjp_call", "custom_vjp_call_jaxpr"})  # fmt: skip
# If the operands of these operations contain only 0 and 1, so do the results.
PICKS = frozenset({
    "and", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "max", "min", "mul", "or", "reduce_max",
    "reduce_min", "reduce_prod", "reshape", "rev", "select_n", "slice", "squeeze", "transpose",
})  # fmt: skip
LARGE = 2**10  # constants with more elements are not examined
Marks = list[bool]


def depends(function: Callable[[Any], Any], argument: Any) -> bool:
    """Whether the output can depend on the argument. False is certain; True is not."""
    jaxpr = jax.make_jaxpr(function)(argument).jaxpr
    return any(depend(jaxpr, [True] * len(jaxpr.invars)))


def depend(jaxpr: Any, inputs: Sequence[bool]) -> Marks:
    """Which outputs of a jaxpr can depend on the marked inputs. False is certain; True is not."""
    marked = dict(zip(jaxpr.invars, inputs, strict=True))
    is_marked = lambda v: not isinstance(v, Literal) and marked.get(v, False)
    for eqn in jaxpr.eqns:
        marked.update(zip(eqn.outvars, _of_eqn(eqn, [is_marked(v) for v in eqn.invars]), strict=True))
    return [is_marked(v) for v in jaxpr.outvars]


def _of_eqn(eqn: Any, given: Marks) -> Marks:
    name, params = eqn.primitive.name, eqn.params
    inner = [getattr(sub, "jaxpr", sub) for sub in jaxprs_in_params(params)]
    if "callback" in name:  # a callback may draw random numbers of its own
        return [True] * len(eqn.outvars)
    if not any(given) and not inner:
        return [False] * len(eqn.outvars)
    if name == "scan":
        fixed, carried = parts_of_scan(params)
        return _until_still(inner[0], given[:fixed], given[fixed : fixed + carried], given[fixed + carried :])
    if name == "while":
        test, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        split = of_test + of_body
        out = _until_still(body, given[of_test:split], given[split:], [])
        return [True] * len(out) if any(depend(test, given[:of_test] + out)) else out
    if name == "cond" and not given[0]:
        branches = [depend(branch, given[1:]) for branch in inner]
        return [any(marks) for marks in zip(*branches, strict=True)]
    if name in INLINED and inner and len(inner[0].invars) == len(given):
        return depend(inner[0], given)
    return [True] * len(eqn.outvars)


def parts_of_scan(params: Any) -> tuple[int, int]:
    """How many operands of a `scan` are constant, and how many are carried. The rest are sliced, one per step."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    fixed, carried, _ = params["ft_in"].unpack()  # since jax 0.12
    return len(fixed), len(carried)


def _until_still(body: Any, fixed: Marks, carried: Marks, each: Marks) -> Marks:
    """Which outputs of a loop are marked, after enough iterations that the marks of the carry no longer change."""
    while True:
        out = depend(body, [*fixed, *carried, *each])
        grown = [a or b for a, b in zip(carried, out, strict=False)]
        if grown == carried:
            return [*carried, *out[len(carried) :]]
        carried = grown


def only_0_or_1(jaxpr: Any, inputs: Sequence[bool], consts: Sequence[Any] = ()) -> Marks:
    """Which outputs are certainly 0 or 1, e.g. booleans and products of them. `inputs` marks the inputs that are."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {v: _is_0_or_1(c) for v, c in zip(jaxpr.constvars, consts, strict=False)}

    def is_known(v: Any) -> bool:
        if isinstance(v, Literal):
            return _is_0_or_1(v.val)
        return known.get(v, False) or getattr(v.aval, "dtype", None) == np.bool_

    for eqn in jaxpr.eqns:
        inner = [(getattr(sub, "jaxpr", sub), getattr(sub, "consts", ())) for sub in jaxprs_in_params(eqn.params)]
        given = [is_known(v) for v in eqn.invars]
        if eqn.primitive.name in INLINED and inner and len(inner[0][0].invars) == len(given):
            known.update(zip(eqn.outvars, only_0_or_1(inner[0][0], given, inner[0][1]), strict=True))
        elif eqn.primitive.name in PICKS:
            # The first operand of a selection is the condition, which need not be 0 or 1.
            known[eqn.outvars[0]] = all(given[1:] if eqn.primitive.name == "select_n" else given)
    return [is_known(v) for v in jaxpr.outvars]


def _is_0_or_1(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer) or np.size(value) > LARGE:
        return False
    if not hasattr(value, "dtype"):
        return value in (0, 1)
    return bool(jnp.issubdtype(value.dtype, np.number) and np.isin(np.asarray(value), (0, 1)).all())


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of an operation of a jaxpr, with these operands."""
    params: Any = eqn.primitive.get_bind_params(eqn.params)
    # The version of JAX determines which of the two it is.
    functions, params = params if isinstance(params, tuple) else ((), params)
    out = eqn.primitive.bind(*functions, *operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
