"""Tests of whether an estimator is biased and whether its variance is finite. They report what they could detect."""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from rgrad.comparison.blocks import blocks
from rgrad.comparison.judged import BIASED, FEW, HEAVY, NAN, UNBIASED, UNKNOWN, VISIBLE, Judged

RATE = 0.01  # the share of comparisons in which any unbiased estimator is called biased
POWER = 0.9  # the probability with which the smallest bias is detected
EFFECTIVE = 100  # the fewest draws that must determine a variance before a mean is judged by it
FREE = 200  # below this many degrees of freedom the interval of a variance covers less than its level
TOP = 2000  # the number of largest deviations that are kept to judge the tail
ROWS = 16  # the arrays that are judged together in the cache; see `blocks`
FEWEST = 20_000  # a tail is not judged with fewer draws

Numbers = np.ndarray[Any, Any]


class Mean(NamedTuple):
    """A mean and its precision for each coordinate: shape `(coordinates,)`. An exact mean has errors of 0."""

    mean: Numbers
    error: Numbers
    third: Numbers
    """The third cumulant of the mean: that of one draw divided by the square of the number of draws."""
    effective: Numbers
    """How many draws determine the variance: the number of draws divided by their kurtosis. For a normal, this is a
    third of the draws. For a gradient that is 0 except in a few rare draws, it is the number of these. inf for an exact
    mean.
    """
    sd: Numbers
    """The standard deviation of one call."""

    @staticmethod
    def exact(mean: Numbers) -> "Mean":
        zero = np.zeros_like(mean)
        return Mean(mean, zero, zero, np.full_like(mean, np.inf), zero)

    @staticmethod
    def of(moments: Any, constant: bool) -> "Mean":
        """From the moments of independent calls."""
        if constant:
            return Mean.exact(moments.mean)
        still = moments.m2 <= 0
        kurtosis = np.where(still, np.inf, moments.m4 / np.where(still, 1.0, moments.m2**2))
        n = moments.count
        return Mean(moments.mean, moments.standard_error, moments.m3 / n**2, n / kurtosis, moments.variance**0.5)


def judge(found: Mean, reference: Mean, tests: int, eps: float, jump: bool | Numbers, heavy: Numbers) -> Judged:
    """Whether an estimator has the same mean as a reference that was drawn independently.

    The difference of the two means, divided by its standard error, is corrected for skewness by Hall's transformation,

        z = t + s t^2 / 3 + s^2 t^3 / 27 + s / 6,      s the skewness of the difference of the means

    and compared with the two-sided normal quantile at `RATE / tests` (Bonferroni). In at most one comparison out of
    100, one or more of the unbiased estimators are called biased. Differences that rounding may explain do not count.

    - "BIASED": the means differ, and at least `EFFECTIVE` draws determine each of them. The second condition is needed
      because with few draws a steep sigmoid looks like a step: its pathwise gradient is 0 except for rare large values
      that have not occurred. The condition is waived if `jump` says that f was found to jump (or, for each coordinate,
      that rare draws cannot account for what is missing), and for an estimate without randomness.
    - "unbiased so far": the means do not differ, and a bias of `smallest_bias` would have been detected with
      probability `POWER`. That bias is smaller than the gradient itself or than the standard deviation of one call.
    - "cannot tell": everything else. `why` gives the reason.

    Args:
        tests: the total number of coordinates that are judged.
        eps: the machine epsilon of the estimates.
        heavy: whether the variance of either one is suspected to be infinite.

    Source: Hall 1992, On the removal of skewness by transformation; two samples: Zhou and Dinh 2005.
    """
    size = len(found.mean)
    jumps = np.broadcast_to(jump, size)
    parts = [
        _judge(
            Mean(*(x[at] for x in found)), Mean(*(x[at] for x in reference)), max(1, tests), eps, jumps[at], heavy[at]
        )
        for at in blocks(size, ROWS)
    ]
    codes, smallest, reasons, numbers = map(np.concatenate, zip(*parts, strict=True))
    return Judged(codes, smallest, reasons, numbers)


def _judge(found: Mean, reference: Mean, tests: int, eps: float, jump: Numbers, heavy: Numbers) -> tuple[Numbers, ...]:
    """The fields of `Judged` for one block of coordinates."""
    difference, error = found.mean - reference.mean, np.hypot(found.error, reference.error)
    rounding = 100 * eps * (np.abs(found.mean) + np.abs(reference.mean) + found.sd + reference.sd)
    safe = np.where(error > 0, error, 1.0)
    skew = (found.third - reference.third) / (safe * safe * safe)
    t = np.sign(difference) * np.maximum(np.abs(difference) - rounding, 0) / safe
    exact = np.where(t == 0, 0.0, np.copysign(np.inf, t))
    z = np.where(error > 0, without_skewness(t, skew), exact)
    z = np.where(np.abs(difference) <= rounding, 0.0, z)
    critical = -ndtri(RATE / (2 * tests))
    smallest = (critical + ndtri(POWER)) * error + rounding
    enough = (found.effective >= EFFECTIVE) & (reference.effective >= EFFECTIVE)
    # If all draws of the estimate are equal, few effective draws are no reason to doubt its mean, unless it differs.
    excused = jump & (reference.effective >= EFFECTIVE)
    still = (found.error == 0) & (reference.effective >= EFFECTIVE)
    telling = smallest <= np.maximum(np.abs(reference.mean), np.maximum(found.sd, rounding))
    differs = np.abs(z) > critical
    unknown = ~np.isfinite(difference)
    few = ~(enough | np.where(differs, excused, still))
    excuse = unknown | heavy | few | (~differs & ~telling)
    codes = np.where(excuse, UNKNOWN, np.where(differs, BIASED, UNBIASED)).astype(np.int8)
    reasons = np.select([~excuse, unknown, heavy, few], [0, NAN, HEAVY, FEW], VISIBLE).astype(np.int16)
    numbers = np.where(reasons == FEW, np.minimum(found.effective, reference.effective), smallest)
    return codes, smallest, reasons, numbers


def without_skewness(t: Numbers, skew: Numbers) -> Numbers:
    """A studentised mean, corrected by Hall's transformation for the skewness of the mean; see `judge`."""
    return t + skew * t * t / 3 + (skew * t) ** 2 * t / 27 + skew / 6


def infinite_variance(top: Numbers, count: int) -> Numbers:
    """Whether the variance may be infinite, from the largest deviations of `count` draws: shape `(coordinates,)`.

    If `P(|x| > t)` falls as `t^-a`, the variance is infinite for `a <= 2`. Hill's estimate of 1/a from the largest k,

        1/a = mean of log(x_(i) / x_(k + 1)), i = 1 .. k

    is computed at two depths, k and 10 k. An infinite variance is suspected if both conditions hold:

    - At k, a <= 2 is not rejected (at 1 %).
    - From 10 k to k the estimate does not fall (by 3 standard errors). It falls if the tails are lighter than any
      power. The seventh power of a normal, for example, looks far heavier than a = 3 at every depth that is reached,
      but its variance is finite.

    For `|z|^p` with p <= 1/2, whose derivative has a = 1/(1 - p), the infinite variance is detected at least nine times
    in ten. For the fifth and seventh powers of a normal, it is falsely suspected once in ten times at 50,000 draws, and
    never at 200,000. Below 20,000 draws nothing is suspected.

    Args:
        top: the largest `TOP + 1` deviations |x - median| in descending order, shape `(TOP + 1, coordinates)`.

    Source: Hill 1975, https://doi.org/10.1214/aos/1176343247; Beirlant et al. 2004, Statistics of extremes (section
    4.2).
    """
    if count < FEWEST or len(top) <= TOP:
        return np.zeros(top.shape[1], bool)
    few = min(max(100, count // 1000), TOP // 10)
    logs = np.log(np.maximum(top, 1e-300))
    hill = lambda k: logs[:k].mean(0) - logs[k]
    deep, shallow = hill(few), hill(10 * few)
    z = -ndtri(0.01)
    fat = deep * (1 + z / few**0.5) >= 0.5
    steady = deep >= shallow * (1 - 3 * (0.9 / few) ** 0.5)
    return fat & steady & (top[10 * few] > 0)
