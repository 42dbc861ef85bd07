"""Where a wrong gradient loses a part of the derivative, and how much."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.audits.differences import LARGE, Plan, compile_plan
from rgrad.audits.judgement import Findings
from rgrad.audits.steps import CALLS, FEWEST
from rgrad.audits.subject import Subject
from rgrad.comparison.judged import BIASED, UNBIASED
from rgrad.comparison.runs import Run
from rgrad.tracing.pairs import Frozen, end_with_frozen
from rgrad.tracing.paths import CLIP, DETACHED, RULE, CutSite, sites_of

ROWS = 3  # the rows that are explained: those with the largest bias
AT_ONCE = 16  # sites in one program
MOST = 64  # sites
SHARE = 0.3  # of the budget, for all of them
SMALLER = 16  # if the value is not that of the loss, the steps are divided by this
PRECISE = 0.03  # relative to the bias: enough for an explanation
SIGNIFICANT = 4.0  # standard errors
LEAST = 0.05  # the smallest share of the bias that is listed
LEAST_OF_SURROGATE = (
    0.9  # the same, if the value is not that of the loss: what a surrogate lacks need not be a part of the bias
)

Numbers = np.ndarray[Any, Any]

CURES = {
    (DETACHED, False): "this detaches its operand: remove it, or add what is missing, e.g. by a score term",
    (DETACHED, True): "this detaches a sample or what is computed from it: remove it, or let rgrad.expect(f, q, key, n) "
    "draw the sample and add the score term",
    ("step", False): "a step function of the parameters has no derivative: smooth it, or treat the parameter as discrete",
    ("step", True): "a discrete choice is made here, and no derivative passes: use rgrad.expect(f, q, key, n, "
    "rgrad.score_function), or rgrad.enumerated if there are few choices",
    (RULE, False): "the custom rule is not the derivative of the function: correct it, or remove it",
    (CLIP, False): "clipped numbers have no derivative here: remove the clip, or audit against the clipped objective",
}  # fmt: skip


class Cut(NamedTuple):
    """A place where a part of the derivative is lost.

    Example:
        >>> def loss(p, key):  # a bit with probability p
        ...     return jnp.where(jax.random.uniform(key) < p, 1.0, 0.0)
        >>> cut = rgrad.audit(loss, 0.4, key).cuts[0]
        >>> cut.operation, cut.function
        ('lt', 'loss')
    """

    file: str
    """Empty if it is not known."""
    line: int
    function: str
    operation: str
    """The primitive of JAX, e.g. `stop_gradient`, `lt`, `argmax`, `custom_vjp_call`."""
    missing: dict[str, float]
    """The derivative that is missing because of it, by row of the audit, in the unit of the row."""
    share: float
    """How much of the bias it explains: 1 for all of it."""
    cure: str

    def __str__(self) -> str:
        place = f"{os.path.relpath(self.file)}:{self.line}" if self.file else "unknown place"
        return f"{place}: {self.operation} explains {self.share:.0%} of the bias; {self.cure}"


def find_cuts(subject: Subject, plan: Plan, found: Findings, names: tuple[str, ...], scales: Numbers, key: Array,
              budget: float) -> tuple[list[Cut], float]:  # fmt: skip
    """The cuts that explain a part of the bias, the largest part first; and the seconds of measurement.

    The loss is evaluated twice at the ends of a step: as it is, and with one operation replaced by what the derivative
    assumes, e.g. that its result does not change. The difference is what the derivative lacks because of this operation.
    """
    chosen = _rows(found)
    found_sites = sites_of(jax.make_jaxpr(subject.loss)(subject.theta, key), clips=not subject.own)
    # The operations of one line are one cut, e.g. the maximum and the minimum in `jnp.clip`.
    lines: dict[Any, list[CutSite]] = {}
    for site in found_sites:
        lines.setdefault((site.place, site.kind) if site.place.file else site.path, []).append(site)
    sites = list(lines.values())[:MOST]
    if not sites or not chosen.size:
        return [], 0.0
    small = Plan(*(np.asarray(x)[chosen] for x in plan))
    if not subject.own:  # the steps were chosen for the value, and the loss may bend more
        small = small._replace(steps=small.steps / SMALLER)
    target = np.where(found.codes == BIASED, found.bias, -found.reference)[chosen]
    means, errors, spent = [], [], 0.0
    groups = [sites[i : i + AT_ONCE] for i in range(0, len(sites), AT_ONCE)]
    for group in groups:
        mean, error, used = _missing(subject, group, small, target, key, SHARE * budget / len(groups))
        means.append(mean)
        errors.append(error)
        spent += used
    mean, error = np.concatenate(means, 1), np.concatenate(errors, 1)
    rows = np.maximum(np.abs(target), np.finfo(float).tiny)
    explained = (rows[:, None] - np.abs(target[:, None] + mean)) / rows[:, None]
    significant = np.abs(mean) > SIGNIFICANT * error + 1e-3 * np.abs(found.size[chosen])[:, None]
    share = np.where(significant, explained, 0.0).max(0)
    least = LEAST if subject.own else LEAST_OF_SURROGATE
    order = [k for k in np.argsort(-share) if share[k] > least]
    cuts = [
        _cut(sites[k][0], share[k], {names[r]: float(mean[i, k] / scales[r]) for i, r in enumerate(chosen)})
        for k in order
    ]
    return cuts, spent


def _rows(found: Findings) -> Numbers:
    """The rows to explain: those with the largest relative bias, or, if none is biased, those without a verdict."""
    kind = BIASED if (found.codes == BIASED).any() else None
    candidates = np.flatnonzero((found.codes == kind) if kind is not None else (found.codes != UNBIASED) & found.finite)
    relative = np.abs(found.bias[candidates]) / np.maximum(found.size[candidates], np.finfo(float).tiny)
    return candidates[np.argsort(-relative)][:ROWS]


def _missing(
    subject: Subject, sites: list[list[CutSite]], plan: Plan, target: Numbers, key: Array, seconds: float
) -> tuple[Numbers, Numbers, float]:
    """What each row lacks because of each group of sites, with standard errors, shape (rows, groups); and the seconds used."""
    theta, numbered = subject.theta, {site.path: (i, site) for i, group in enumerate(sites) for site in group}
    signs = np.array([-1.0 if group[0].kind == CLIP else 1.0 for group in sites])
    closed = jax.make_jaxpr(subject.loss)(theta, key)
    which = np.eye(len(sites) + 1, len(sites), -1, dtype=bool)  # none, then each one

    def call(plan: Plan, key: Array) -> Array:
        key = jax.random.fold_in(key, 0)

        def lacking(direction: Array, step: Array) -> Array:
            def end(which: Any, sign: Array) -> Array:
                at = theta + (sign * step / 2).astype(theta.dtype) * direction
                return jnp.asarray(end_with_frozen(closed, [theta, key], [at, None], Frozen(numbered, which)))

            ends = jax.vmap(jax.vmap(end, (None, 0)), (0, None))(which, jnp.asarray([-1.0, 1.0], theta.dtype))
            slopes = (ends[:, 1] - ends[:, 0]) / step
            return slopes[0] - slopes[1:]

        given = plan.directions, plan.steps
        found = jax.lax.map(lambda one: lacking(*one), given) if plan.directions.size > LARGE else jax.vmap(lacking)(
            *given
        )  # fmt: skip
        return found.astype(theta.dtype).ravel()

    program = compile_plan(call, plan, key)
    run = Run("cuts", program, key)
    shape = len(target), len(sites)
    while True:
        run.batch("time")
        entry = run.entry("time")
        mean, error = (np.nan_to_num(x.reshape(shape)) for x in (entry.mean.mean, entry.mean.error))
        precise = run.calls >= CALLS and (error <= PRECISE * np.abs(target)[:, None]).all()
        if program.constant or precise or (run.used >= seconds and run.calls >= FEWEST):
            return mean * signs, error, run.used


def _cut(site: CutSite, share: float, missing: dict[str, float]) -> Cut:
    cure = CURES.get((site.kind, site.random)) or CURES[site.kind, False]
    return Cut(site.place.file, site.place.line, site.place.function, site.operation, missing, float(share), cure)
