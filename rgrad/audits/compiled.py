"""Whether a loss is the same with and without compilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Literal, jaxprs_in_params

from rgrad.audits.subject import Subject
from rgrad.tracing.paths import CALLS
from rgrad.tracing.traced import bind

KEYS = 5
MOST = 3_000  # operations. A larger program is not checked


class Disagreement(NamedTuple):
    """How two evaluations with the same key differ."""

    verdict: str
    sentence: str


def disagreement(subject: Subject, key: Array) -> Disagreement | None:
    """Evaluates the loss and its gradient with `jax.jit`, and operation by operation, with the same keys.

    Each evaluation traces the loss anew, so that a loss with side effects differs too. Rounding may change the result of
    a comparison. So a difference counts only if most keys show one that is larger than rounding.

    Returns:
        None if they agree, or if the program is too large to check.
    """
    keys = jax.random.split(jax.random.fold_in(key, 2**31 - 1), KEYS)
    both = lambda theta, key: jnp.concatenate([x.ravel() for x in jax.value_and_grad(subject.loss)(theta, key)])
    fresh = lambda: lambda theta, key: both(theta, key)
    first = jax.make_jaxpr(fresh())(subject.theta, keys[0])
    if _count(first.jaxpr) > MOST:
        return None
    plain = np.array([_one_by_one(first.jaxpr, first.consts, [subject.theta, k])[0] for k in keys], np.float64)
    jitted = jax.jit(fresh())
    fast = np.array([jitted(subject.theta, k) for k in keys], np.float64)
    if not _differ(plain, fast, subject.eps):
        return None
    again = jax.make_jaxpr(fresh())(subject.theta, keys[0])
    other = np.array([_one_by_one(again.jaxpr, again.consts, [subject.theta, k])[0] for k in keys], np.float64)
    if _differ(plain, other, subject.eps):
        return Disagreement(
            "side effects",
            "The loss returns different values for the same parameters and key, so it uses something else that changes, "
            "e.g. numpy.random or a global variable. Draw random numbers from the key, and pass everything else in params.",
        )
    at = "value" if _differ(plain[:, :1], fast[:, :1], subject.eps) else "gradient"
    i = int(np.argmax(np.abs(plain - fast).max(1)))
    j = int(np.argmax(np.abs(plain[i] - fast[i])))
    return Disagreement(
        "compiled wrongly",
        f"The {at} is not the same under jax.jit: {fast[i, j]:.6g}, and {plain[i, j]:.6g} operation by operation. The "
        "compiler is wrong; see rgrad.check_compiler().",
    )


def _differ(a: Any, b: Any, eps: float) -> bool:
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    size = np.maximum(np.abs(a), np.abs(b)).max(1, keepdims=True) + np.abs(a).mean()
    apart = (np.abs(a - b) > 10 * eps**0.5 * size).any(1)
    return bool(apart.sum() > KEYS / 2)


def _count(jaxpr: Any) -> int:
    inner = (getattr(sub, "jaxpr", sub) for eqn in jaxpr.eqns for sub in jaxprs_in_params(eqn.params))
    return len(jaxpr.eqns) + sum(map(_count, inner))


def _one_by_one(jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    """A jaxpr, operation by operation. A loop is one operation."""
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, operands, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else known[v]
    for eqn in jaxpr.eqns:
        given = [read(v) for v in eqn.invars]
        if eqn.primitive.name in CALLS:
            inner = next(iter(jaxprs_in_params(eqn.params)))
            outs = _one_by_one(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        else:
            outs = bind(eqn, given)
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]
