"""The step of each row, and whether the values at its ends share their key: chosen from the first calls of an audit."""

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
MOST = 16  # the number of steps to try
CALLS = 64  # the calls with each of them
FEWEST = 16  # if there is no time for that
WILD = 1.5  # the values at the ends of a step vary much more than at the point if the noise is this many times larger
WILDEST = 1e-3  # a smaller step is never too large
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

    A large step makes the noise of a value that jumps small, and rounding negligible. The error of the differences is
    measured (`correction`, `kink`), so the step is made smaller only if they show it. It is also made smaller if the
    values at its ends vary much more than at the point itself, and cannot jump.

    Values with a common key differ less, so their difference has less noise. If the keys of the two ends decide
    different things anyway, independent keys are as good, and have no rare large differences. They are used if common
    keys do not reduce the variance.

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
    """The findings, with those of `new` in the marked rows."""
    pick = lambda a, b: np.where(at, b, a) if isinstance(a, np.ndarray) else b
    return Findings(*map(pick, old, new))  # type: ignore[arg-type]
