"""`Comparison`: the result of `compare`, as rows, as a table, and as one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr, ndtri

from rgrad.backend.not_finite import WHY_NAN
from rgrad.comparison.summary import as_text
from rgrad.comparison.verdicts import EFFECTIVE, FREE, Judged, Mean
from rgrad.comparison.witnesses import judge_all
from rgrad.measurement.moments import Moments

CONFIDENCE = 0.95  # required for a recommendation; below it the answer is that more budget is needed
SLACK = 1.1  # the recommended estimator may be less efficient than the best by this factor


class Entry(NamedTuple):
    """The measurements of one estimator."""

    moments: Moments
    mean: Mean
    total: float
    """The total variance of one call, summed over all coordinates."""
    total_error: float
    seconds: float
    """The time of one call, the median over batches."""
    operations: float
    cost: float
    """`seconds` or `operations`."""
    cost_noise: float
    """The relative standard error of the cost."""
    heavy: np.ndarray[Any, Any]
    """The coordinates whose variance is suspected to be infinite."""
    constant: bool

    @property
    def finite(self) -> bool:
        return bool(np.all(np.isfinite(self.moments.mean)) and np.isfinite(self.total))

    @property
    def silent(self) -> bool:
        """Whether every draw was 0 although the estimate is random. Its variance may then be larger than 0."""
        return (
            not self.constant and self.finite and bool(np.all(self.moments.m2 == 0) and np.all(self.moments.mean == 0))
        )

    @property
    def eligible(self) -> bool:
        return self.finite and not self.heavy.any() and not self.silent

    @property
    def carried(self) -> bool:
        """Whether at least `EFFECTIVE` draws determine the total variance, and not only a few very large ones."""
        return self.total_error <= EFFECTIVE**-0.5 * self.total

    @property
    def log_efficiency(self) -> float:
        return -float(np.log(self.total * self.cost)) if self.total > 0 else np.inf

    @property
    def noise(self) -> float:
        """The standard error of `log_efficiency`."""
        return float(np.hypot(self.total_error / self.total, self.cost_noise)) if self.total > 0 else self.cost_noise

    def lead(self, rival: Entry) -> float:
        """The evidence, in standard errors, that a rival is not more efficient than this one by more than `SLACK`."""
        gap = self.log_efficiency - rival.log_efficiency + np.log(SLACK)
        noise = np.hypot(self.noise, rival.noise)
        return float(gap / noise) if noise > 0 else np.inf * np.sign(gap)


class Comparison(NamedTuple):
    """The result of `rgrad.compare`. `print` it to see the table; use `.rows` in programs."""

    rows: list[dict[str, Any]]
    """One row for each estimator and coordinate. Variances and costs are per call. `efficiency` is relative to the
    best, and inf if the variance is 0. `biased` is True, False, or None if there is no verdict. `operations` are those
    of `rgrad.comparison.costs`. A bias of `smallest_bias` would have been detected 9 times in 10.
    """
    totals: list[dict[str, Any]]
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
    n: int
    cost: str
    spent: float
    """Seconds of measuring, or operations."""
    compile_seconds: float

    def __str__(self) -> str:
        bad = any(row["remark"].startswith("nan") for row in self.totals)
        return as_text(self) + (f"\n\nPossible causes of nan: {WHY_NAN}." if bad else "")


def conclude(
    found: Mapping[str, Entry], task: Any, cost: str, n: int, spent: float, compile_seconds: float
) -> Comparison:
    """The comparison that follows from the measurements."""
    judged = judge_all(found, task)
    entries = with_exact({name: found[name] for name in task.asked})
    flagged = {name for name, verdict in judged.items() if "BIASED" in verdict.verdict}
    nothing = lambda name: entries[name].total == 0 and not np.any(entries[name].moments.mean)
    able = [
        name for name, entry in entries.items()
        if entry.eligible and name not in flagged and not judged[name].disputed
        and not (nothing(name) and "cannot tell" in judged[name].verdict)
    ]  # fmt: skip
    best, confidence, sentence = recommend(entries, able, judged, task)
    chosen = best if confidence >= CONFIDENCE else None
    rows = [row for name in entries for row in _rows(name, entries, able, judged[name], task, name == chosen)]
    top = max((entries[name].log_efficiency for name in able if entries[name].total > 0), default=0.0)
    totals = [
        {
            "estimator": name,
            "variance": entry.total,
            "seconds": entry.seconds,
            "operations": entry.operations,
            "efficiency": _ratio(entry.log_efficiency - top),
            "biased": _biased(judged[name].verdict),
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
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    largest = max((e.total for e in entries.values() if e.finite), default=0.0)
    least = lambda e: (4 * eps) ** 2 * (float(np.sum(e.moments.mean**2)) + largest)
    return {name: e._replace(total=0.0) if e.finite and e.total <= least(e) else e for name, e in entries.items()}


def recommend(
    entries: Mapping[str, Entry], able: Sequence[str], judged: Mapping[str, Judged], task: Any
) -> tuple[str | None, float, str]:
    """The best so far, the confidence that no other is more than 10 % better, and the recommendation in words."""
    if task.jumping:
        return None, 0.0, (
            f"No estimator can be recommended: the objective jumps in {', '.join(sorted(task.jumping))}, and no estimator includes "
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
        words += f": {np.exp(gap):.3g} times as efficient as {others[0]}, the next best (95 % interval {low:.3g} to {high:.3g})"
    return best, confidence, f"{words}; confidence {_percent(confidence)}{_caveat(judged[best])}."


def _caveat(judged: Judged) -> str:
    why = next((why for verdict, why in zip(judged.verdict, judged.why, strict=True) if verdict == "cannot tell"), "")
    return f" (its bias could not be tested: {why})" if why else ""


def _rows(
    name: str, entries: Mapping[str, Entry], able: Sequence[str], judged: Judged, task: Any, chosen: bool
) -> list[dict[str, Any]]:
    entry = entries[name]
    moments = entry.moments
    low, high = moments.variance_interval()
    freedom, errors, kurtosis = moments.variance_freedom, moments.standard_error, moments.kurtosis
    variances, best_products = moments.variance, _best_products(entries, able, len(task.labels))
    rows = []
    for i, label in enumerate(task.labels):
        zero = entry.total == 0 or variances[i] == 0
        variance = 0.0 if zero else float(variances[i])
        warning = (
            "nan or infinite in some calls" if not entry.finite
            else "infinite variance (suspected)" if entry.heavy[i]
            else "heavy tails: the interval covers less than 95 %" if not zero and not freedom[i] >= FREE
            else ""
        )  # fmt: skip
        rows.append({
            "estimator": name,
            "parameter": label,
            "mean": float(moments.mean[i]),
            "standard_error": 0.0 if entry.constant else float(errors[i]),
            "variance": variance,
            "variance_low": 0.0 if zero else float(low[i]),
            "variance_high": 0.0 if zero else float(high[i]),
            "seconds": entry.seconds,
            "operations": entry.operations,
            "efficiency": np.inf if zero else float(best_products[i] / (variance * entry.cost)),
            "biased": _biased([judged.verdict[i]]),
            "recommended": chosen,
            "snr": np.inf if zero else float(abs(moments.mean[i]) / variance**0.5),
            "smallest_bias": float(judged.smallest_bias[i]),
            "kurtosis": float(kurtosis[i]),
            "calls": int(moments.count),
            "verdict": judged.verdict[i],
            "why": judged.why[i],
            "warning": warning,
        })  # fmt: skip
    return rows


def _best_products(entries: Mapping[str, Entry], able: Sequence[str], size: int) -> np.ndarray[Any, Any]:
    """The least variance x cost in each coordinate, of the estimators that are able and have a variance there, or nan."""
    products = [entries[name].moments.variance * entries[name].cost for name in able if entries[name].total > 0]
    every = np.array([np.full(size, np.inf), *(np.where(product > 0, product, np.inf) for product in products)])
    least = every.min(0)
    return np.where(np.isfinite(least), least, np.nan)


def _biased(verdicts: Sequence[str]) -> bool | None:
    return True if "BIASED" in verdicts else None if "cannot tell" in verdicts else False


def _remark(entry: Entry, judged: Judged) -> str:
    if not entry.finite:
        bad = int(jax.tree.reduce(max, jax.tree.map(np.max, entry.moments.nonfinite)))
        return f"nan or infinite in {bad:,} of {int(entry.moments.count):,} calls"
    if "BIASED" in judged.verdict:
        return "BIASED"
    if entry.heavy.any():
        return "infinite variance (suspected)"
    if entry.silent:
        return "0 in every draw, so its variance is not known"
    return next((why for why in judged.why if why), "")


def _ratio(log: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(log))


def _rounded(times: float) -> str:
    return f"{times:.1f}" if times < 3 else f"{times:.2g}" if times < 100 else f"{times:.0e}"


def _percent(confidence: float) -> str:
    return "over 99.9 %" if confidence > 0.999 else f"{100 * confidence:.1f} %"
