"""Where the path of a derivative through a jaxpr is cut: operations whose derivative is 0, or is not that of the function."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal, jaxprs_in_params

from rgrad.tracing.places import Place, place_of
from rgrad.tracing.traced import depend, parts_of_scan

DETACHED, STEP, RULE, CLIP = "detached", "step", "custom rule", "clip"
BENDS = frozenset({"rem", "atan2", "while", "nextafter"})  # floats that may jump, although they have a derivative
STEPS = frozenset({"sign", "floor", "ceil", "round"})  # floats whose derivative is 0
RULES = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
CLIPS = frozenset({"max", "min", "clamp"})
CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"})
Marks = list[bool]


class CutSite(NamedTuple):
    """An operation at which the path from the parameters is cut, or has a rule of its own."""

    path: tuple[int, ...]
    """Its position: the index of the operation in its jaxpr. If other operations contain it, their indices come first,
    the outermost one at the start, each followed by the number of the jaxpr within it."""
    kind: str
    """DETACHED (`stop_gradient`), STEP (the result is an integer, a boolean, or constant in pieces), RULE (a
    `custom_jvp` or `custom_vjp`) or CLIP (a maximum or minimum, whose derivative is 0 on one side)."""
    operation: str
    random: bool
    """Whether its operands also depend on the key."""
    place: Place


class _Walk:
    """Follows the marks of a derivative through a jaxpr.

    Args:
        moves: follow every number that changes with the parameters, also through `stop_gradient` and custom rules. Then
            the sites are the steps, at which the value may jump.
        clips: whether to yield sites of the kind CLIP.
    """

    def __init__(self, moves: bool, clips: bool):
        self._moves, self._clips = moves, clips

    def sites(
        self, jaxpr: Any, live: Sequence[bool], random: Sequence[bool], path: tuple[int, ...], around: list[Any]
    ) -> Generator[CutSite, None, tuple[Marks, Marks]]:
        """Yields the sites, in order. Returns the marks of the outputs: live, and random."""
        lives = dict(zip(jaxpr.invars, live, strict=True))
        randoms = dict(zip(jaxpr.invars, random, strict=True))
        marked = lambda marks, v: not isinstance(v, Literal) and marks.get(v, False)
        for i, eqn in enumerate(jaxpr.eqns):
            inputs = [marked(lives, v) for v in eqn.invars]
            drawn = [marked(randoms, v) for v in eqn.invars]
            here = (*path, i)
            outs, noisy = yield from self._of_eqn(eqn, inputs, drawn, here, [*around, eqn])
            lives.update(zip(eqn.outvars, outs, strict=True))
            randoms.update(zip(eqn.outvars, noisy, strict=True))
        return [marked(lives, v) for v in jaxpr.outvars], [marked(randoms, v) for v in jaxpr.outvars]

    def _of_eqn(
        self, eqn: Any, live: Marks, drawn: Marks, here: tuple[int, ...], around: list[Any]
    ) -> Generator[CutSite, None, tuple[Marks, Marks]]:
        name = eqn.primitive.name
        inner = [getattr(sub, "jaxpr", sub) for sub in jaxprs_in_params(eqn.params)]
        noisy = [any(drawn)] * len(eqn.outvars)
        if not any(live):
            return [False] * len(eqn.outvars), noisy
        through = name in CALLS or (name in RULES and self._moves)
        if through and inner and len(inner[0].invars) == len(live):
            return (yield from self.sites(inner[0], live, drawn, (*here, 0), around))
        if name == "scan":
            fixed, carried = parts_of_scan(eqn.params)
            live, drawn = (_settled(inner[0], marks, fixed, carried) for marks in (live, drawn))
            return (yield from self.sites(inner[0], live, drawn, (*here, 0), around))
        if name == "cond":
            if live[0]:  # it never is, because an index is an integer
                return [True] * len(eqn.outvars), noisy
            outs = [False] * len(eqn.outvars)
            for b, branch in enumerate(inner):
                found, _ = yield from self.sites(branch, live[1:], drawn[1:], (*here, b), around)
                outs = [a or b for a, b in zip(outs, found, strict=True)]
            return outs, noisy
        floats = [_is_float(v.aval) for v in eqn.outvars]
        site = lambda kind: CutSite(here, kind, name, any(drawn), place_of(around))
        if name == "stop_gradient":
            if self._moves:
                return floats, noisy
            yield site(DETACHED)
            return [False] * len(floats), noisy
        if name in STEPS or not all(floats):
            yield site(STEP)
            return [name not in STEPS and f for f in floats], noisy
        if name in RULES:
            yield site(RULE)
        if name in BENDS and self._moves:
            yield site(STEP)
        if name in CLIPS and self._clips:
            yield site(CLIP)
        return floats, noisy


def _settled(body: Any, marks: Marks, fixed: int, carried: int) -> Marks:
    """The marks of the inputs of a loop's body, after enough iterations that those of the carry no longer change."""
    while True:
        outs = depend(body, marks)
        grown = [a or b for a, b in zip(marks[fixed : fixed + carried], outs, strict=False)]
        if grown == marks[fixed : fixed + carried]:
            return marks
        marks = [*marks[:fixed], *grown, *marks[fixed + carried :]]


def _is_float(aval: Any) -> bool:
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, jnp.inexact)


def sites_of(closed: Any, *, clips: bool) -> list[CutSite]:
    """The sites of a closed jaxpr of `(theta, key)`, in order.

    Args:
        clips: whether to list maxima and minima too. Their derivative is right, but an objective without the clip may
            have another.
    """
    return _walked(closed, _Walk(moves=False, clips=clips))


def jumps_of(value: Callable[[Array, Array], Array], theta: Array, key: Array) -> bool:
    """Whether a value may jump as the parameters move along a line.

    True means only that it may. False is certain, except for functions that JAX does not trace (callbacks).
    """
    closed = jax.make_jaxpr(value)(theta, key)
    return bool(_walked(closed, _Walk(moves=True, clips=False)))


def _walked(closed: Any, walk: _Walk) -> list[CutSite]:
    count = len(closed.jaxpr.invars)
    live = [i == 0 for i in range(count)]
    return list(walk.sites(closed.jaxpr, live, [not mark for mark in live], (), []))
