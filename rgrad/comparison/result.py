"""`Comparison`: the result of `compare`, as rows, as a table, and as one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtr, ndtri

from rgrad.backend.not_finite import WHY_NAN
from rgrad.comparison.entry import Entry, rounding
from rgrad.comparison.judged import UNKNOWN, Judged
from rgrad.comparison.rows import Row, Rows
from rgrad.comparison.summary import SHOWN, as_text
from rgrad.comparison.verdicts import EFFECTIVE
from rgrad.comparison.witnesses import judge_all
from rgrad.printing import Printed

CONFIDENCE = 0.95  # required for a recommendation; below it the answer is that more budget is needed


class _ComparisonFields(NamedTuple):
    rows: Sequence[Row]
    """One row for each estimator and coordinate. The sequence makes its rows on demand, so a million coordinates take
    no time. Variances and costs are per call. `efficiency` is relative to the best, and inf if the variance is 0.
    `biased` is True, False, or None if there is no verdict. `operations` are those of `rgrad.comparison.costs`. A bias
    of `smallest_bias` would have been detected 9 times in 10.
    """
    totals: list[Row]
    """One row for each estimator, over all coordinates: the sum of their variances, the largest `smallest_bias`."""
    recommended: str | None
    recommendation: str
    """The recommendation, or why there is none, in words."""
    confidence: float
    """The confidence that no other unbiased estimator is more than 10 % more efficient than the best so far."""
    left_out: dict[str, str]
    """The estimators that do not apply to this problem, and why."""
    notes: tuple[str, ...]
    reference: str
    """The references that the means were compared with."""
    n: int | None
    """The number of samples of one call. None for losses, which choose their own."""
    cost: str
    spent: float
    """Seconds of measuring, or operations."""
    compile_seconds: float


class Comparison(Printed, _ComparisonFields):
    """The result of `rgrad.compare`. `print` it to see the table; use `.rows` in programs.

    Example:
        >>> mean = lambda p, key, n: p * jax.random.normal(key, (n,)).mean()
        >>> losses = {"few": partial(mean, n=10), "many": partial(mean, n=100)}
        >>> compared = rgrad.compare(losses, params=1.0, key=key, budget=0.1, cost="operations")
        >>> [row["estimator"] for row in compared.totals]
        ['few', 'many']
    """

    __slots__ = ()

    def __str__(self) -> str:
        bad = any(row["remark"].startswith("nan") for row in self.totals)
        return as_text(self) + (f"\n\nPossible causes of nan: {WHY_NAN}." if bad else "")


def conclude(
    found: Mapping[str, Entry], task: Any, cost: str, n: int | None, spent: float, compile_seconds: float
) -> Comparison:
    """The comparison that follows from the measurements."""
    judged = judge_all(found, task)
    entries = with_exact({name: found[name] for name in task.asked})
    nothing = lambda name: entries[name].total == 0 and not np.any(entries[name].moments.mean)
    able = [
        name for name, entry in entries.items()
        if entry.eligible and not judged[name].biased and not judged[name].disputed
        and not (nothing(name) and judged[name].biased is None)
    ]  # fmt: skip
    best, confidence, sentence = recommend(entries, able, judged, task)
    chosen = best if confidence >= CONFIDENCE else None
    rows = Rows(entries, able, {name: judged[name] for name in entries}, task.labels, chosen)
    top = max((entries[name].log_efficiency for name in able if entries[name].total > 0), default=0.0)
    totals = [
        {
            "estimator": name,
            "variance": entry.total,
            "seconds": entry.seconds,
            "operations": entry.operations,
            "efficiency": _ratio(entry.log_efficiency - top),
            "biased": judged[name].biased,
            "recommended": name == chosen,
            "calls": int(entry.moments.count),
            "remark": _remark(entry, judged[name]),
            "smallest_bias": float(np.max(judged[name].smallest_bias)),
        }
        for name, entry in entries.items()
    ]
    by = dict.fromkeys(reference for of in judged.values() for reference in of.by)
    reference = "; ".join(by) or (
        "none, because no two references agree" if task.exact is not None or task.judges else "none"
    )
    return Comparison(
        rows, totals, chosen, sentence, confidence, dict(task.left_out), task.notes, reference, n, cost, spent, compile_seconds
    )  # fmt: skip


def with_exact(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries, with a variance of 0 if it is not larger than rounding error."""
    largest = max((e.total for e in entries.values() if e.finite), default=0.0)
    return {
        name: e._replace(total=0.0) if e.finite and e.total <= rounding(e.moments, largest) else e
        for name, e in entries.items()
    }


def recommend(
    entries: Mapping[str, Entry], able: Sequence[str], judged: Mapping[str, Judged], task: Any
) -> tuple[str | None, float, str]:
    """The best so far, the confidence that no other is more than 10 % better, and the recommendation in words."""
    if task.jumping is not None:
        return None, 0.0, (
            f"No estimator can be recommended: the objective jumps in {_some(task.labels, task.jumping)}, and no estimator includes "
            "what this adds to the gradient. Differentiate with respect to the other parameters, or smooth the objective."
        )  # fmt: skip
    if not able:
        why = "; ".join(f"{name}: {_remark(entry, judged[name])}" for name, entry in entries.items())
        return None, 0.0, f"No estimator can be recommended ({why})."
    exact = [name for name in able if entries[name].total == 0]
    if exact:
        best = min(exact, key=lambda name: entries[name].cost)
        return best, 1.0, f"Use {best}: it is exact, with variance 0{_caveat(judged[best])}."
    best, *others = sorted(able, key=lambda name: -entries[name].log_efficiency)
    if not entries[best].carried:
        few = np.nan_to_num((entries[best].total / entries[best].total_error) ** 2)
        return best, 0.0, (
            f"No recommendation yet: {best} is best so far, but only {few:.0f} draws determine its variance, and {EFFECTIVE} are "
            "needed. Use a larger budget."
        )  # fmt: skip
    leads = {name: entries[best].lead(entries[name]) for name in others}
    confidence = max(0.0, 1 - sum(float(ndtr(-lead)) for lead in leads.values()))
    if confidence < CONFIDENCE:
        needed = -float(ndtri((1 - CONFIDENCE) / len(leads)))
        close = [name for name, lead in leads.items() if lead < needed]
        times = max((needed / leads[name]) ** 2 for name in close)
        return best, confidence, (
            f"Cannot decide between {' and '.join([best, *close])} yet: this needs about {_rounded(max(times, 1.2))} times the "
            "budget."
        )  # fmt: skip
    words = f"Use {best}"
    if others:
        gap = entries[best].log_efficiency - entries[others[0]].log_efficiency
        half = 1.96 * np.hypot(entries[best].noise, entries[others[0]].noise)
        low, high = np.exp(gap - half), np.exp(gap + half)
        place = (
            "the next best of those that can be recommended"
            if _excluded_before(others[0], entries, able, judged)
            else "the next best"
        )
        words += (
            f": {np.exp(gap):.3g} times as efficient as {others[0]}, {place} (95 % interval {low:.3g} to {high:.3g})"
        )
    return best, confidence, f"{words}; confidence {_percent(confidence)}{_caveat(judged[best])}."


def _excluded_before(
    rival: str, entries: Mapping[str, Entry], able: Sequence[str], judged: Mapping[str, Judged]
) -> bool:
    """Whether an estimator that cannot be recommended, though it is not biased, is more efficient than the rival."""
    rest = [name for name, entry in entries.items() if name not in able and entry.finite and entry.total > 0]
    return any(
        not judged[name].biased and entries[name].log_efficiency > entries[rival].log_efficiency for name in rest
    )


def _some(labels: Sequence[str], marks: np.ndarray[Any, Any]) -> str:
    """The labels of the marked coordinates, the first few if there are many."""
    at = np.flatnonzero(marks)
    first = ", ".join(sorted(labels[int(i)] for i in at[:SHOWN]))
    return first if len(at) <= SHOWN else f"{first} and {len(at) - SHOWN:,} more"


def _caveat(judged: Judged) -> str:
    why = judged.first(judged.codes == UNKNOWN)
    return f" (its bias could not be tested: {why})" if why else ""


def _remark(entry: Entry, judged: Judged) -> str:
    if not entry.finite:
        bad = int(jax.tree.reduce(max, jax.tree.map(np.max, entry.moments.nonfinite)))
        return f"nan or infinite in {bad:,} of {int(entry.moments.count):,} calls"
    if judged.biased:
        return "BIASED"
    if entry.suspected:
        return "infinite variance (suspected)"
    if entry.silent:
        return "0 in every draw, so its variance is not known"
    return judged.first(judged.reasons > 0)


def _ratio(log: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(log))


def _rounded(times: float) -> str:
    return f"{times:.1f}" if times < 3 else f"{times:.2g}" if times < 100 else f"{times:.0e}"


def _percent(confidence: float) -> str:
    return "over 99.9 %" if confidence > 0.999 else f"{100 * confidence:.1f} %"
