"""`audit`: whether the gradient of a loss is the derivative of its expectation, and if not, where it is cut."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from rgrad.audits.compiled import disagreement
from rgrad.audits.cuts import Cut, find_cuts
from rgrad.audits.differences import Plan, compile_plan, statistics
from rgrad.audits.directions import FEW as FEW_COORDINATES
from rgrad.audits.directions import FINEST, Directions, directions_of
from rgrad.audits.judgement import HOPELESS, LOOKS, TOLERANCE, Findings, judge_rows
from rgrad.audits.result import Audit, conclude
from rgrad.audits.steps import FACTOR, choose_steps, updated
from rgrad.audits.subject import Scalar, Subject, subject_of
from rgrad.backend.compiling import check_compiles
from rgrad.backend.keys import check_counted_key
from rgrad.comparison.costs import Program
from rgrad.comparison.entry import Entry
from rgrad.comparison.judged import BIASED, UNBIASED
from rgrad.comparison.runs import Run
from rgrad.tracing.paths import jumps_of

PILOT = 0.2  # of the budget, at most, for the choice of the steps
FIRST = 64  # the fewest calls for a first mean gradient, which chooses the directions if there are many coordinates
ENOUGH = 0.4  # of the budget: after this, one biased row is enough, even if others have no verdict yet
RESTARTS = 8  # how often a step may be made smaller during the measurements
FIND_NAN = "call jax.grad(loss) under jax.debug_nans(True) to find the operation"
PAIRED = 3  # with up to this many rows, order 2 audits all pairs of them


class AuditedRows(NamedTuple):
    """The rows of one order."""

    directions: Directions
    plan: Plan
    found: Findings
    spent: float
    program: Program

    @property
    def scales(self) -> np.ndarray[Any, Any]:
        """A derivative along a row, divided by this, is per unit of length."""
        lengths = lambda x: np.linalg.norm(np.asarray(x, np.float64), axis=1)
        second = lengths(self.plan.outputs)
        return lengths(self.plan.directions) * np.where(second > 0, second, 1.0)


def audit(
    loss: Scalar,
    params: Any,
    key: Array,
    *,
    budget: float = 10.0,
    value: Scalar | None = None,
    wrt: Sequence[str] | str | None = None,
    has_aux: bool = False,
    order: int = 1,
    tolerance: float = TOLERANCE,
) -> Audit:
    """Checks whether `jax.grad(loss)` is unbiased: compares its mean with the derivative of the mean value.

    It works for any loss, whether or not it uses this library. The result has a row for each coordinate of the
    parameters. If there are more than 24 coordinates, each row is a direction: two random ones over all coordinates
    and, for each parameter (at most six), its gradient, its element with the largest gradient, and a random direction
    over its elements whose gradient is 0. The verdict of a row is

    - "ok": the bias is certainly below `tolerance`. `largest_bias` is the largest one that is not excluded.
    - "BIASED", with the bias. A right gradient is called biased in at most 1 audit of 100.
    - "cannot tell", with the reason and, if more calls would help, the budget that they take.

    A relative bias is relative to the gradient or the truth, whichever is larger. So a lost gradient has a bias of 100 %,
    and one that is twice too large 50 %. For an element of an array, the root mean square over the array counts if it is
    larger; so does 1/30 of the standard deviation of one gradient.

    The truth is a central difference of the value, extrapolated from two steps (Richardson). The step is the largest one
    at which the two steps and the second differences show no error. The gradient and the values share a key, so that
    most of their noise cancels. If it does not cancel, e.g. because a discrete choice depends on the key, each value has
    its own key.

    Before that, the loss and its gradient are evaluated with and without compilation, unless the program has more than
    3,000 operations. If the results differ, the verdict is "compiled wrongly" or "side effects".

    If a row is not ok, `cuts` lists the places where the path from the parameters to the value is cut: `stop_gradient`,
    a comparison, a conversion to integers, a custom rule that is not the derivative, ... Each has its file and line, and
    the derivative that is missing because of it.

    Args:
        loss: `loss(params, key) -> scalar`.
        params: the point: any pytree. Floats and arrays of floats are differentiated, as in `rgrad.fit`.
        key: one PRNG key.
        budget: seconds of measurement, at most. Compilation is not included.
        value: `value(params, key) -> scalar`, an estimate of the objective. It is needed if the loss is a surrogate, whose
            gradient estimates that of the objective, but whose value means nothing: e.g. a REINFORCE loss with
            `stop_gradient`, or a ratio of probabilities. None: the loss itself.
        wrt: the names of the parameters to audit, dotted paths as in `rgrad.fit`. None: all.
        has_aux: whether the loss and `value` return `(scalar, anything)`.
        order: 2 also audits second derivatives, if the first ones are ok: the gradient of a directional derivative of the
            loss is compared with the differences of that derivative.
        tolerance: the largest bias that is ok, relative to the derivative.

    Returns:
        `Audit`: `.verdict`, `.rows`, `.cuts` and `.sentence`. `print` shows them. Derivatives are per unit of a
        parameter, or per unit of length along a direction.

    Raises:
        TypeError: the loss or the value is not a function `(params, key) -> scalar float`, or a parameter is an integer.
        ValueError: the loss or its gradient is nan or infinite, an unknown name in `wrt`, an invalid budget, order or
            tolerance, a key of the kind rbg, or `jax.disable_jit`.

    Example:
        >>> def loss(p, key):  # a bit with probability p
        ...     return jnp.where(jax.random.uniform(key) < p, 1.0, 0.0)
        >>> found = rgrad.audit(loss, 0.4, key)
        >>> found.verdict
        'BIASED'
    """
    check_compiles("audit")
    check_counted_key(key, "audit")
    for name, number, most in (("budget", budget, np.inf), ("tolerance", tolerance, 1.0)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < most:
            what = "a positive number of seconds" if name == "budget" else "between 0 and 1"
            raise ValueError(f"audit: {name} must be {what}, got {number!r}")
    if order not in (1, 2):
        raise ValueError(f"audit: order must be 1 (the gradient) or 2 (also second derivatives), got {order!r}")
    began = time.perf_counter()
    subject = subject_of(loss, params, key, value, wrt, has_aux)
    if wrong := disagreement(subject, key):
        return Audit.without_rows(wrong, time.perf_counter() - began)
    shares = (budget,) if order == 1 else (budget / 2, budget / 2)
    parts: list[AuditedRows] = []
    for i, seconds in enumerate(shares):
        if i and (parts[0].found.codes != 0).any():
            break  # second derivatives are differences of the first, which must be right
        # Order 2 differences the gradient, which may jump where the value does not, e.g. that of a relu.
        jumps = jumps_of(jax.grad(subject.loss) if i else subject.value, subject.theta, key)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # values that are not finite are reported
            parts.append(_measured(subject, i + 1, key, seconds, jumps, LOOKS * order, tolerance))
    names, scales, plans, found = _joined(parts)
    cuts: list[Cut] = []
    spent = sum(part.spent for part in parts)
    if (parts[0].found.codes != UNBIASED).any():
        first = parts[0]
        cuts, used = find_cuts(subject, first.plan, first.found, first.directions.names, first.scales, key, budget)
        spent += used
    return conclude(
        names, scales, plans.steps, plans.apart, found, cuts, spent, time.perf_counter() - began - spent,
        deterministic=parts[0].program.constant, own=subject.own, tolerance=tolerance,
    )  # fmt: skip


def _joined(parts: list[AuditedRows]) -> tuple[tuple[str, ...], np.ndarray[Any, Any], Plan, Findings]:
    """The rows of all orders: their names, the lengths of their directions, their plans and findings."""
    if len(parts) == 1:
        only = parts[0]
        return only.directions.names, only.scales, only.plan, only.found
    names = tuple(name for part in parts for name in part.directions.names)
    scales = np.concatenate([part.scales for part in parts])
    both = lambda a, b: np.concatenate([a, b]) if isinstance(a, np.ndarray) else b
    first, second = (part.plan._replace(outputs=np.zeros((len(part.scales), 0))) for part in parts)
    return names, scales, Plan(*map(both, first, second)), Findings(*map(both, parts[0].found, parts[1].found))  # type: ignore[arg-type]


def _measured(
    subject: Subject,
    order: int,
    key: Array,
    budget: float,
    jumps: bool,
    looks_in_all: int,
    tolerance: float,
    program: Program | None = None,
) -> AuditedRows:
    """The rows of one order, measured until all have a verdict or the budget is spent.

    Args:
        program: that of an earlier audit with the same number of rows. It saves compiling again.
    """
    rng = np.random.default_rng(zlib.crc32(np.asarray(jax.random.key_data(key)).tobytes()))
    mean, spent = None, 0.0
    if subject.theta.size > FEW_COORDINATES:
        mean, spent = _mean_gradient(subject, key, PILOT / 2 * budget)
    directions, plan = _plan(subject, order, directions_of(subject, mean, rng))
    program = program or compile_plan(statistics(subject, order, jumps), plan, key)
    eps, tests = subject.eps, looks_in_all * len(directions.names)

    def judged(entry: Entry, plan: Plan) -> Findings:
        return judge_rows(entry, plan, eps, directions.parameters, tests=tests, jumps=jumps, tolerance=tolerance)

    smallest = directions.smallest_steps(subject)
    plan, final, took = choose_steps(program, plan, key, judged, PILOT * budget, jumps, smallest)
    _check_finite(final, directions)
    spent += took
    decided, restarts, looks = np.zeros(len(plan.steps), bool), 0, 0
    run = Run(f"order {order}", program._replace(parameters=plan), key)
    while True:
        looks += 1
        used, over = _double(run, budget - spent, last=looks >= LOOKS)
        spent += used
        found = judged(run.entry("time"), plan)
        final = updated(final, found, ~decided)
        can_refine = found.coarse & (np.asarray(plan.steps) / FACTOR >= smallest) & (restarts < RESTARTS)
        told = (found.codes == UNBIASED) | ((found.codes == BIASED) & ~can_refine)
        decided |= told | (np.isin(found.reasons, HOPELESS) & ~can_refine)
        refine = ~decided & can_refine
        over |= bool((final.codes == BIASED)[decided].any()) and spent > ENOUGH * budget
        if decided.all() or over or (program.constant and not refine.any()):
            return AuditedRows(directions, plan, final, spent, program)
        if refine.any():
            restarts += 1
            plan = plan._replace(steps=np.where(refine, plan.steps / FACTOR, plan.steps).astype(plan.steps.dtype))
            run = Run(f"order {order}, {restarts}", program._replace(parameters=plan), key)


def _double(run: Run, seconds: float, last: bool) -> tuple[float, bool]:
    """Doubles the number of calls. Returns the seconds used, and whether there is no time left for more.

    Args:
        last: use all seconds, because there may be no further look.
    """
    goal, used = np.inf if last and not run.program.constant else max(1, 2 * len(run.seconds)), 0.0
    while len(run.seconds) < goal:
        used += run.batch("time")
        if used + run.used / len(run.seconds) > seconds:
            return used, True
    return used, False


def _mean_gradient(subject: Subject, key: Array, seconds: float) -> tuple[np.ndarray[Any, Any], float]:
    """The mean of a first sample of gradients, shape (size,), and the seconds that it took."""
    program = compile_plan(lambda _, key: jax.grad(subject.loss)(subject.theta, key), (), key)
    run = Run("mean gradient", program, key)
    run.batch("time")
    while run.calls < FIRST and not program.constant and run.used < seconds:
        run.batch("time")
    entry = run.entry("time")
    if not run.finite:
        lost = int(np.max(entry.moments.nonfinite))
        raise ValueError(f"audit: the gradient is nan or infinite for {lost:,} of {run.calls:,} keys; {FIND_NAN}")
    return entry.mean.mean, run.used


def _plan(subject: Subject, order: int, directions: Directions) -> tuple[Directions, Plan]:
    """The rows of one order. Order 2 has a row for each pair of directions, or for some pairs if there are many."""
    vectors, names, owners = directions
    rows = len(names)
    first = second = np.arange(rows)
    if order == 2:
        if rows <= PAIRED:
            first, second = (a.ravel() for a in np.meshgrid(first, second, indexing="ij"))
        else:
            first = np.concatenate([first, first])
            second = np.concatenate([second, np.roll(second, 1)])
        names = tuple(f"{names[i]}; {names[j]}" for i, j in zip(first, second, strict=True))
        owners = tuple("" for _ in names)
    dtype = subject.theta.dtype
    array = lambda x: np.asarray(x, np.float64).astype(dtype)
    outputs = array(vectors[first]) if order == 2 else np.zeros((rows, 0), dtype)
    chosen = Directions(vectors[second], names, owners)
    finest = np.maximum(chosen.smallest_steps(subject), FINEST)
    ones = np.ones(len(names), dtype)
    return chosen, Plan(array(vectors[second]), outputs, ones, array(finest), np.zeros(len(names), bool))


def _check_finite(found: Findings, directions: Directions) -> None:
    """Raises ValueError if the loss or its gradient is not finite at the point itself."""
    if found.lost:
        raise ValueError(f"audit: the loss is nan or infinite for {found.lost:,} of {found.calls:,} keys; {FIND_NAN}")
    if (bad := ~np.isfinite(found.slope)).any():
        name = directions.names[int(bad.argmax())]
        raise ValueError(
            f"audit: the gradient in {name} is nan or infinite for some of {found.calls:,} keys; {FIND_NAN}"
        )
