"""Chooses, from the first calls of an audit, the step of each row and whether the values at its ends share their key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from rgrad.audits.differences import INDEPENDENT, Plan
from rgrad.audits.judgement import Findings
from rgrad.comparison.costs import Program
from rgrad.comparison.entry import Entry
from rgrad.comparison.runs import Run

FACTOR = 4.0  # between one step and the next smaller one
MOST = 16  # steps are tried
CALLS = 64  # are made with each of them
FEWEST = 16  # are made if there is no time for that
WILD = 1.5  # if the noise at the ends of a step is this many times that at the point, the step is too large
WILDEST = 1e-3  # but a step below this never is
ALIKE = 0.9  # common keys must reduce the standard deviation to less than this

Numbers = np.ndarray[Any, Any]


def choose_steps(
    program: Program,
    plan: Plan,
    key: Array,
    judged: Callable[[Entry, Plan], Findings],
    seconds: float,
    jumps: bool,
    smallest: Numbers,
) -> tuple[Plan, Findings, float]:
    """The largest step of each row at which the differences show no error, and the kind of keys.

    With a large step, rounding is negligible, and a value that jumps causes little noise. The error of the differences is
    measured (`correction`, `kink`), and the step is made smaller only if they show one. It is also made smaller if the
    values cannot jump, but vary much more at its ends than at the point itself.

    Values with a common key usually differ less, so their difference has less noise. If it does not, e.g. because a
    discrete choice depends on the key, independent keys are as good, and they avoid rare large differences. They are used
    if common keys reduce the standard deviation by less than 10 %.

    Args:
        seconds: after this time, only `FEWEST` calls are made with each step.
        jumps: whether the value may jump along a step.
        smallest: the smallest step of each row.

    Returns:
        The plan, the findings at the chosen steps, and the seconds that this took.
    """
    steps, settled = np.array(plan.steps, float), np.zeros(len(plan.steps), bool)
    began, best = time.perf_counter(), None

    def tried(name: str, plan: Plan) -> Findings:
        run = Run(name, program._replace(parameters=plan), key)
        while run.calls < (CALLS if time.perf_counter() - began < seconds else FEWEST):
            run.batch("time")
            if program.constant:
                break
        return judged(run.entry("time"), plan)

    for i in range(MOST):
        plan = plan._replace(steps=steps.astype(plan.steps.dtype))
        found = tried(f"step {i}", plan)
        best = found if best is None else updated(best, found, ~settled)
        wild = (not jumps) & (found.reference_sd > WILD * INDEPENDENT**0.5 * found.value_sd / steps) & (steps > WILDEST)
        settled |= ~(found.coarse | wild) | (steps / FACTOR < smallest)
        if settled.all():
            break
        steps = np.where(settled, steps, steps / FACTOR)
    assert best is not None
    if not program.constant:
        independent = tried("independent", plan._replace(apart=np.ones(len(steps), bool)))
        plan = plan._replace(apart=best.reference_sd > ALIKE * independent.reference_sd)
    return plan, best, time.perf_counter() - began


def updated(old: Findings, new: Findings, at: Numbers) -> Findings:
    """The findings `old`, with those of `new` in the rows that are marked."""
    pick = lambda a, b: np.where(at, b, a) if isinstance(a, np.ndarray) else b
    return Findings(*map(pick, old, new))  # type: ignore[arg-type]
