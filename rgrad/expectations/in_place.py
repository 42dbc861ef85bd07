"""Costs-to-go: what a draw of a program is charged with, and the draws that need no evaluation of the rest of their own.

A run of a program leaves `Event`s, in its order: its costs, and its draws by the score function. They are charged
backwards. A cost is added to the cost-to-go, and the score of a draw is attached to the cost-to-go after it:

    R <- R + cost
    R <- R + (attach(R - b, log q) - (R - b))

The terms are nested as if each draw had called its estimator with the rest of the program as f. So they are correct to
every order, but the program runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.autodiff import attach
from rgrad.backend.varying import same_varying
from rgrad.distributions.counts import are_integers, counts_as_floats, may_overflow
from rgrad.distributions.draws import draw_pathwise
from rgrad.estimators.baselines import baseline_values
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.score_function import drawn_with_score, score_function
from rgrad.estimators.surrogate import nan_where_nan
from rgrad.estimators.table import naming_others
from rgrad.expectations.particles import over_particles
from rgrad.protocols import Distribution, Estimator, Sample

Charge = Callable[[Array, Any], Array]
"""`(cost-to-go after an event, arrays of the event) -> cost-to-go before it`."""


class Event(NamedTuple):
    """Something that happens in a program and changes the cost-to-go."""

    charge: Charge
    arrays: Any
    """A pytree. In that of a scan, the steps are the first axis."""
    guard: Any = None
    """0, or nan with a derivative of nan."""
    site: Any = None
    """For `trace_program`: the `Site` of a draw, or the name of a scan and what its first step has here."""


def cost_to_go(last: Array, events: Sequence[Event]) -> Array:
    """The cost from the first of the events on, with its score terms. `last` is the cost after all of them."""
    for event in reversed(events):
        last = event.charge(last, event.arrays)
    # These are added at the end, and are no part of the cost-to-go of a draw: XLA would compute them again for each.
    guard = guard_of(events)
    return last if guard is None else last + guard


def guard_of(events: Sequence[Event]) -> Array | None:
    """The sum of the guards of the events, if there are any."""
    guards = [event.guard for event in events if event.guard is not None]
    return sum(guards[1:], start=guards[0]) if guards else None


def cost(value: ArrayLike) -> Event:
    return Event(jnp.add, jnp.asarray(value))


def steps(charges: Sequence[Charge], arrays: Any, guards: Any, site: Any = None) -> Event:
    """All steps of a scan as one event.

    Args:
        charges: those of the events of one step.
        arrays: those of the events, with the steps along the first axis.
        guards: the `guard_of` each step. None if there are none.
    """

    def charge(after: Array, arrays: Any) -> Array:
        floats = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]
        dtype = jnp.result_type(after, *floats)
        start, *_ = same_varying(after.astype(dtype), *jax.tree.leaves(arrays))  # the carry of a scan keeps its type

        def step(after: Array, arrays: Any) -> tuple[Array, None]:
            own = [Event(*pair) for pair in zip(charges, arrays, strict=True)]
            return cost_to_go(after, own).astype(dtype), None

        try:
            return lax.scan(step, start, arrays, reverse=True)[0]
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "draw.scan: a baseline is a function that uses a value of its step, e.g. the carry, but the costs after a "
                "step are known only after the scan; give the baseline as a number, which may use values of the step"
            ) from error

    return Event(charge, arrays, None if guards is None else guards.sum(), site)


def is_score_function(estimator: Any) -> bool:
    """Whether it is the score function with at most a baseline, which needs no evaluation of the rest of its own."""
    if not isinstance(estimator, partial):
        return estimator is score_function
    return estimator.func is score_function and not estimator.args and set(estimator.keywords) <= {"baseline"}


def is_in_place(estimator: Any) -> bool:
    """Whether it evaluates the rest of the program once, at its own sample."""
    return estimator is reparameterized or is_score_function(estimator)


def drawn_in_place(
    q: Distribution, estimator: Estimator, key: Array, n: int, in_scan: bool = False
) -> tuple[Sample, list[Event]] | None:
    """One sample of `q` and what it adds to the events. None if the estimator evaluates the rest of the program itself.

    The sample is the one at which the estimator, with this key, would evaluate the rest.

    Args:
        n: the number of particles.
        in_scan: counts that may be too large to be squared become floats. Otherwise this depends on the rest, so they
            are not drawn in place.
    """
    if estimator is reparameterized:
        with naming_others(q):
            return _first(draw_pathwise(q, key, 1, "reparameterized")), []
    if not is_score_function(estimator):
        return None
    keywords = getattr(over_particles(estimator, n, "draw"), "keywords", {})
    with naming_others(q):
        x, _, log_q = drawn_with_score(q, key, 1)
        x, large = _first(x), may_overflow(q, "score_function")
    if large and are_integers(x):
        if not in_scan:
            return None
        x = counts_as_floats(x)
    return x, [_score(log_q, keywords.get("baseline", 0.0))]


def _score(log_q: Array, baseline: Any) -> Event:
    """The score term of a draw. A baseline that is a number may be traced, so it is one of the arrays."""
    guard = nan_where_nan(log_q)[0]
    if isinstance(baseline, int | float) and baseline == 0:
        return Event(lambda after, log_q: attach(after, log_q[0]), log_q, guard)

    def charge(after: Array, arrays: Any) -> Array:
        log_q, number = arrays
        off = after - baseline_values(baseline if number is None else number, after[None])[0]
        return after + (attach(off, log_q[0]) - off)

    return Event(charge, (log_q, None if callable(baseline) else jnp.asarray(baseline)), guard)


def _first(x: Sample) -> Sample:
    return jax.tree.map(lambda leaf: leaf[0], x)
