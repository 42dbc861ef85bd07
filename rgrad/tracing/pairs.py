"""Evaluates a jaxpr at two points at once, with the change at chosen places undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Literal, jaxprs_in_params

from rgrad.tracing.paths import CALLS, CLIP, RULE, STEPS, CutSite
from rgrad.tracing.traced import bind, parts_of_scan


class Pair(NamedTuple):
    """A number at the first point, and at the second."""

    base: Any
    moved: Any
    """None if it is the same at both."""

    @property
    def end(self) -> Any:
        return self.base if self.moved is None else self.moved


class Frozen(NamedTuple):
    """The sites at which the second point gets what the derivative assumes instead of the value of the function."""

    sites: Mapping[tuple[int, ...], tuple[int, CutSite]]
    """By path: the number of the site, and the site."""
    which: Array
    """Booleans by that number."""

    def within(self, path: tuple[int, ...]) -> bool:
        return any(other[: len(path)] == path and len(other) > len(path) for other in self.sites)


def end_with_frozen(closed: Any, base: Sequence[Any], moved: Sequence[Any], frozen: Frozen) -> Any:
    """The first output of a closed jaxpr at `moved`, with some sites frozen.

    At a site where the path of the derivative is cut, the second point keeps the result of the first. At a custom rule,
    it gets the result of the first plus the change according to the rule. At a clip, it gets the result of the first
    plus the change of the clipped number, as if there were no clip.

    Args:
        base, moved: the arguments at both points. None in `moved`: they are the same.
    """
    pairs = [Pair(a, b) for a, b in zip(base, moved, strict=True)]
    return _run(closed.jaxpr, closed.consts, pairs, frozen, ())[0].end


def _run(jaxpr: Any, consts: Sequence[Any], pairs: Sequence[Pair], frozen: Frozen, path: tuple[int, ...]) -> list[Pair]:
    known = {v: Pair(c, None) for v, c in zip(jaxpr.constvars, consts, strict=True)}
    known |= dict(zip(jaxpr.invars, pairs, strict=True))
    read = lambda v: Pair(v.val, None) if isinstance(v, Literal) else known[v]
    for i, eqn in enumerate(jaxpr.eqns):
        known.update(zip(eqn.outvars, _eqn(eqn, [read(v) for v in eqn.invars], frozen, (*path, i)), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _eqn(eqn: Any, given: list[Pair], frozen: Frozen, here: tuple[int, ...]) -> list[Pair]:
    name = eqn.primitive.name
    base = [pair.base for pair in given]
    if all(pair.moved is None for pair in given):
        return [Pair(x, None) for x in bind(eqn, base)]
    if frozen.within(here):
        inner = jaxprs_in_params(eqn.params)
        first = next(iter(inner))
        if name in CALLS:
            return _run(getattr(first, "jaxpr", first), getattr(first, "consts", ()), given, frozen, (*here, 0))
        if name == "scan":
            return _scan(eqn, given, frozen, here)
        if name == "cond":
            return _cond(eqn, given, frozen, here)
    ends = [pair.end for pair in given]
    old, new = bind(eqn, base), bind(eqn, ends)
    if here in frozen.sites:
        number, site = frozen.sites[here]
        new = [
            jnp.where(frozen.which[number], x, y)
            for x, y in zip(_assumed(eqn, site, given, old, new), new, strict=True)
        ]
    return [Pair(x, y) for x, y in zip(old, new, strict=True)]


def _assumed(eqn: Any, site: CutSite, given: list[Pair], old: list[Any], new: list[Any]) -> list[Any]:
    """The results at the second point according to the derivative (for a clip: without the clip)."""
    if site.kind == RULE:
        return _by_rule(eqn, given, old)
    if site.kind == CLIP:
        moving = [pair for pair in given if pair.moved is not None]
        if len(moving) != 1:
            return new
        return [old[0] + (moving[0].moved - moving[0].base)]
    cut = lambda x: site.operation in (*STEPS, "stop_gradient") or not jnp.issubdtype(x.dtype, jnp.inexact)
    return [x if cut(x) else y for x, y in zip(old, new, strict=True)]


def _by_rule(eqn: Any, given: list[Pair], old: list[Any]) -> list[Any]:
    """The results at the first point, plus their custom derivative times the change of the operands."""
    base = [pair.base for pair in given]
    moving = [
        i for i, pair in enumerate(given)
        if pair.moved is not None and jnp.issubdtype(jnp.result_type(pair.base), jnp.inexact)
    ]  # fmt: skip
    change = [given[i].moved - given[i].base for i in moving]

    def of(*floats: Any) -> list[Any]:
        every = list(base)
        for i, x in zip(moving, floats, strict=True):
            every[i] = x
        return [x for x in bind(eqn, every) if jnp.issubdtype(x.dtype, jnp.inexact)]

    at = [base[i] for i in moving]
    if eqn.primitive.name == "custom_jvp_call":
        _, slopes = jax.jvp(of, at, change)
    else:  # there is only the reverse rule, which is linear in the cotangent
        outs, back = jax.vjp(of, *at)
        (slopes,) = jax.linear_transpose(lambda c: back(c), outs)(tuple(change))
    rest = iter(slopes)
    return [x + next(rest) if jnp.issubdtype(x.dtype, jnp.inexact) else x for x in old]


def _scan(eqn: Any, given: list[Pair], frozen: Frozen, here: tuple[int, ...]) -> list[Pair]:
    body = eqn.params["jaxpr"]
    fixed, carried = parts_of_scan(eqn.params)
    consts, start, each = given[:fixed], given[fixed : fixed + carried], given[fixed + carried :]
    both = lambda pairs: ([p.base for p in pairs], [p.end for p in pairs])
    paired = lambda two: [Pair(a, b) for a, b in zip(*two, strict=True)]

    def step(carry: Any, xs: Any) -> Any:
        outs = _run(body.jaxpr, body.consts, [*consts, *paired(carry), *paired(xs)], frozen, (*here, 0))
        return both(outs[:carried]), both(outs[carried:])

    settings = {name: eqn.params[name] for name in ("length", "reverse")}
    end, stacked = lax.scan(step, both(start), both(each), **settings)
    return [*paired(end), *paired(stacked)]


def _cond(eqn: Any, given: list[Pair], frozen: Frozen, here: tuple[int, ...]) -> list[Pair]:
    """All branches, because the two points may be in different ones."""
    index, *operands = given
    branches = eqn.params["branches"]
    found = [_run(b.jaxpr, b.consts, operands, frozen, (*here, i)) for i, b in enumerate(branches)]
    pick = lambda at, outs: lax.select_n(jnp.clip(at, 0, len(branches) - 1).astype(jnp.int32), *outs)
    return [
        Pair(pick(index.base, [p.base for p in outs]), pick(index.end, [p.end for p in outs]))
        for outs in zip(*found, strict=True)
    ]
