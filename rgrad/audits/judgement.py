"""The verdict for each row of an audit: whether its slope is the derivative of the mean value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from rgrad.audits.differences import FINE, STATISTICS, Plan
from rgrad.comparison.entry import Entry
from rgrad.comparison.judged import BIASED, FEW, HEAVY, UNBIASED, UNKNOWN
from rgrad.comparison.verdicts import EFFECTIVE, RATE, without_skewness

LOOKS = 20  # the most times that an audit looks at its measurements; each look has its share of `RATE`
TOLERANCE = 0.1  # relative to the derivative: a row is ok if its bias is certainly below this
NEGLIGIBLE = 1 / 30  # of the standard deviation of one slope: a derivative below this counts as 0
SMOOTH = 0.02  # relative to the derivative: with a larger error of the differences, the step is made smaller
SEEN = 3.0  # standard errors: a smaller error of the differences cannot be told from noise
MARGIN = 2.0  # a bias is believed if it is this many times what the differences may be wrong
KINKED = 0.3  # relative to the derivative: a kink at the point itself, where there is no derivative
CAUTIOUS = 10.0  # with too few calls that determine a bias, its interval is this many times as wide
UNSEEN = 5.0  # if an event did not occur in n calls, its probability is below UNSEEN / n, except in 1 % of cases
OUTLYING = 10.0  # standard deviations of the value: the assumed size of such an event
COARSE, UNDEFINED, SURROGATE, KINK, VISIBLE = range(10, 15)  # more reasons, besides `rgrad.comparison.judged`
HOPELESS = (COARSE, UNDEFINED, SURROGATE, KINK)  # more calls do not help

Numbers = np.ndarray[Any, Any]


class Findings(NamedTuple):
    """What is known about each row. All arrays have shape (rows,)."""

    codes: Numbers
    """UNBIASED, UNKNOWN or BIASED."""
    reasons: Numbers
    """Why a row has no verdict, as a number. 0 for no reason."""
    slope: Numbers
    slope_error: Numbers
    reference: Numbers
    reference_error: Numbers
    bias: Numbers
    width: Numbers
    """Half the width of the interval of the bias, at the level of the verdicts."""
    size: Numbers
    """The size of the derivative, relative to which a bias counts."""
    truncated: Numbers
    """What is known of the error of the differences. It is smaller for a smaller step."""
    rounding: Numbers
    """The error of the differences due to rounding. It is larger for a smaller step."""
    calls: int
    needed: Numbers
    """The number of calls that a verdict takes. inf if more calls do not help."""
    effective: Numbers
    """How many calls determine the bias."""
    finite: Numbers
    """Whether no value at the ends of a step was nan or infinite."""
    slope_sd: Numbers
    reference_sd: Numbers
    value_sd: float
    """nan if the value itself is not always finite."""
    lost: int
    """The number of calls whose value was not finite."""
    tolerance: float
    eps: float
    doubtful: Numbers
    """The bias would be significant, but may be an error of the differences."""

    @property
    def largest(self) -> Numbers:
        """The largest bias that is not excluded."""
        return np.abs(self.bias) + self.width

    @property
    def coarse(self) -> Numbers:
        """The rows whose step should be smaller."""
        limit = min(SMOOTH, self.tolerance / 5) * self.size
        return ~self.finite | (
            ((self.truncated > limit) | (self.doubtful & (self.truncated > 0))) & (self.rounding < limit)
        )


def judge_rows(
    entry: Entry, plan: Plan, eps: float, parameters: tuple[str, ...], *, tests: int, jumps: bool, tolerance: float
) -> Findings:
    """The findings so far.

    The bias is the mean of `slope - reference` over calls. A row is BIASED if its bias is larger than the error of the
    differences can explain, and the excess is significant at `RATE / tests` (Hall's transformation, as in `compare`).
    Otherwise it is UNBIASED if the whole interval is within `tolerance` of 0, relative to `size`. If fewer than
    `EFFECTIVE` calls determine the bias, there is no verdict, unless the bias hardly varies.

    Args:
        parameters: the parameter to which each row belongs, so that an element with a small derivative is judged
            relative to the others.
        tests: the number of rows times the number of looks.
        jumps: whether the value may jump along a step. If it rarely does, perhaps no call has shown it.
    """
    steps, finest = (np.asarray(x, np.float64) for x in (plan.steps, plan.finest))
    rows = len(steps)
    part = {name: slice(i * rows, (i + 1) * rows) for i, name in enumerate(STATISTICS)}
    mean, error, sd = entry.mean.mean, entry.mean.error, entry.mean.sd
    bias, slope, reference = (mean[part[name]] for name in ("bias", "slope", "reference"))
    n, value_sd = int(entry.moments.count), float(sd[-1]) if np.isfinite(mean[-1]) else np.nan
    beyond = lambda name: np.maximum(np.abs(mean[part[name]]) - SEEN * error[part[name]], 0)
    largest = np.maximum(np.abs(reference), np.abs(slope))
    size = np.maximum(largest, NEGLIGIBLE * sd[part["slope"]])
    for name in set(parameters) - {""}:
        at = np.array([p == name for p in parameters])
        if np.isfinite(size[at]).all():
            size[at] = np.maximum(size[at], np.sqrt(np.mean(largest[at] ** 2)))
    # The extrapolation usually leaves much less than its correction.
    truncated = beyond("correction") + beyond("kink")
    at_most = lambda name: np.abs(mean[part[name]]) + 2 * error[part[name]]
    possible = at_most("correction") + at_most("kink")
    magnitude = abs(float(mean[-1])) + value_sd
    truncated += np.nan_to_num(np.maximum(beyond("fine") - 8 * eps * magnitude / np.minimum(finest, FINE * steps), 0))
    rounding = eps * ((4.0 if entry.constant else 0.5) * magnitude / steps + 20 * (np.abs(slope) + np.abs(reference)))
    critical = float(-ndtri(RATE / (2 * tests)))
    effective = np.where(entry.constant, np.inf, entry.mean.effective[part["bias"]])
    se = error[part["bias"]]
    still = entry.constant | (sd[part["bias"]] <= 1e-3 * size + rounding)
    # A jump of the value that no call has shown.
    unseen = np.where(jumps & still & (not entry.constant), UNSEEN / n * OUTLYING * value_sd / steps, 0.0)
    allowed = truncated + rounding + unseen
    excess = np.sign(bias) * np.maximum(np.abs(bias) - allowed, 0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        t = np.where(excess == 0, 0.0, excess / se)
        z = without_skewness(t, entry.mean.third[part["bias"]] / se**3)
    z = np.where(still | (t == 0), t, z)  # a mean that hardly varies has no useful third moment
    width = critical * se + allowed
    finite = np.isfinite(bias)
    few, heavy = ~(still | (effective >= EFFECTIVE)), entry.heavy[part["bias"]]
    surrogate = (np.abs(reference) <= rounding) & (sd[part["reference"]] <= rounding) & (np.abs(slope) > 8 * np.maximum(
        error[part["slope"]], rounding))  # fmt: skip
    significant, within = (np.abs(z) > critical) & (np.abs(bias) > width), np.abs(bias) + width <= tolerance * size
    doubtful = significant & (np.abs(bias) < MARGIN * (possible + truncated))
    differs = significant & ~doubtful
    kinked = (not jumps) & (beyond("kink") > KINKED * size) & (beyond("correction") < tolerance * size)
    few &= ~(np.abs(bias) + CAUTIOUS * critical * se + allowed <= tolerance * size)
    nothing = (largest <= rounding) & (sd[part["slope"]] <= rounding) & still  # neither has any derivative
    codes = np.where(differs, BIASED, np.where(within | (nothing & ~differs), UNBIASED, UNKNOWN))
    room = tolerance * size - truncated - rounding
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        needed = np.where(room > 0, n * (critical * se / room) ** 2, np.inf)
        rare = np.where(still & jumps & (room > 0), UNSEEN * OUTLYING * value_sd / steps / room, 0.0)
    needed = np.maximum(needed, rare)
    needed = np.maximum(needed, np.where(few, n * EFFECTIVE / np.maximum(effective, 0.1), 0))
    reasons = np.select(
        [~finite, kinked, surrogate, heavy, few, codes != UNKNOWN, room <= 0],
        [UNDEFINED, KINK, SURROGATE, HEAVY, FEW, 0, COARSE], VISIBLE,
    )  # fmt: skip
    codes = np.where(~finite | kinked | surrogate | heavy | few, UNKNOWN, codes)
    return Findings(
        codes, reasons, slope, error[part["slope"]], reference, error[part["reference"]], bias, width, size, truncated,
        rounding, n, needed, effective, finite, sd[part["slope"]], sd[part["reference"]], value_sd,
        int(entry.moments.nonfinite[-1]), tolerance, eps, doubtful,
    )  # fmt: skip
