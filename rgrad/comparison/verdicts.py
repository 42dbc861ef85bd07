"""Is an estimator biased, and can its variance be trusted? Tests that say what they could have seen."""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtri

RATE = 0.01  # of comparisons in which any unbiased estimator at all is called biased
POWER = 0.9  # with which the smallest bias is seen
EFFECTIVE = 100  # draws that must carry a variance before a mean is judged by it
FREE = 200  # degrees of freedom of a variance under which its interval covers less than it says
TOP = 2000  # of the largest deviations, kept for the tail
FEWEST = 20_000  # draws under which a tail is not judged

Verdict = Literal["unbiased so far", "BIASED", "cannot tell"]
Numbers = np.ndarray[Any, Any]


class Mean(NamedTuple):
    """A mean and how sure it is, for each coordinate: shape `(coordinates,)`; an exact one has errors of 0."""

    mean: Numbers
    error: Numbers
    third: Numbers
    """The third cumulant of the mean: that of one draw over the square of how many there are."""
    effective: Numbers
    """How many draws carry the variance: their count over their kurtosis. The normal has a third of them; of a gradient that
    is 0 but for a few rare draws, it is those few. inf where it is exact."""
    sd: Numbers
    """Of one call."""

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


class Judged(NamedTuple):
    """Of each coordinate; see `judge`."""

    verdict: list[Verdict]
    smallest_bias: Numbers
    why: list[str]
    by: tuple[str, ...] = ()
    """What the means were compared with."""
    disputed: bool = False
    """Whether another one surely has a different mean somewhere, and nothing says which of them is right."""


def judge(found: Mean, reference: Mean, tests: int, eps: float, jump: bool | Numbers, heavy: Numbers) -> Judged:
    """Whether the mean of an estimator is that of a reference, which was drawn independently.

    The difference of two means over its standard error is corrected for skewness by Hall's transformation,

        z = t + s t^2 / 3 + s^2 t^3 / 27 + s / 6,      s the skewness of the difference of the means

    and compared with the normal quantile at `RATE / tests`, two-sided (Bonferroni), so that in one comparison out of 100 at
    most any of the unbiased estimators is called biased. What a difference may be by rounding alone is allowed for.

    - "BIASED": they differ, and at least `EFFECTIVE` draws carry each of the two means. A steep sigmoid looks like a step
      to few draws: its pathwise gradient is 0 but for rare large values that are not there. That excuse is not heard where
      `jump` says that f was found to jump (or that rare draws cannot hold what is missing, for each coordinate), nor for an
      estimate without randomness.
    - "unbiased so far": they do not differ, and a bias of `smallest_bias` would have been seen with probability `POWER`,
      which is less than the gradient itself or than the standard deviation of one call.
    - "cannot tell": all else; `why` says what is missing.

    Args:
        tests: how many such coordinates are judged in all.
        eps: of the floats of the estimates.
        heavy: where the variance is suspected to be infinite, of the one or the other.

    Source: Hall 1992, On the removal of skewness by transformation; two samples: Zhou and Dinh 2005.
    """
    difference, error = found.mean - reference.mean, np.hypot(found.error, reference.error)
    rounding = 100 * eps * (np.abs(found.mean) + np.abs(reference.mean) + found.sd + reference.sd)
    safe = np.where(error > 0, error, 1.0)
    skew = (found.third - reference.third) / safe**3
    t = np.sign(difference) * np.maximum(np.abs(difference) - rounding, 0) / safe
    exact = np.where(t == 0, 0.0, np.copysign(np.inf, t))
    z = np.where(error > 0, t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6, exact)
    z = np.where(np.abs(difference) <= rounding, 0.0, z)
    critical = -ndtri(RATE / (2 * max(1, tests)))
    smallest = (critical + ndtri(POWER)) * error + rounding
    enough = (found.effective >= EFFECTIVE) & (reference.effective >= EFFECTIVE)
    # Where the estimate never moved at all, its mean is no less sure for that, unless it is the wrong one.
    excused = jump & (reference.effective >= EFFECTIVE)
    still = (found.error == 0) & (reference.effective >= EFFECTIVE)
    telling = smallest <= np.maximum(np.abs(reference.mean), np.maximum(found.sd, rounding))
    differs = np.abs(z) > critical
    unknown = ~np.isfinite(difference)
    few = ~(enough | np.where(differs, excused, still))
    excuse = unknown | heavy | few | (~differs & ~telling)
    verdicts: list[Verdict] = np.select([excuse, differs], ["cannot tell", "BIASED"], "unbiased so far").tolist()
    why = [""] * len(verdicts)
    for i in np.flatnonzero(excuse):
        if unknown[i]:
            why[i] = "nan or infinite gradients"
        elif heavy[i]:
            why[i] = "infinite variance (suspected)"
        elif few[i]:
            why[i] = f"only {min(found.effective[i], reference.effective[i]):.0f} draws carry the mean"
        else:
            why[i] = f"a bias under {smallest[i]:.2g} would not be seen"
    return Judged(verdicts, smallest, why)


def infinite_variance(top: Numbers, count: int) -> Numbers:
    """Whether the variance is suspected to be infinite, from the largest deviations of `count` draws: shape `(coordinates,)`.

    Where `P(|x| > t)` falls as `t^-a`, the variance is infinite for `a <= 2`. Hill's estimate of 1/a, from the largest k,

        1/a = mean of log(x_(i) / x_(k + 1)), i = 1 .. k

    is taken at two depths, k and 10 k. Suspected: at k, a <= 2 is not refused (at 1 %), and going from 10 k to k the estimate
    does not fall (by 3 standard errors), as it does where tails are lighter than any power: the seventh power of a normal is
    far heavier than anything with a = 3 at any depth that is reached, and its variance is finite. Of `|z|^p` at p = 1/2 and
    under, whose derivative has a = 1/(1 - p), nine in ten are named or more; of fifth and seventh powers of a normal one in ten
    at 50,000 draws and none at 200,000. Under 20,000 draws nothing is named.

    Args:
        top: the largest `TOP + 1` deviations |x - median| in falling order, shape `(TOP + 1, coordinates)`.

    Source: Hill 1975; Beirlant et al. 2004, Statistics of extremes (section 4.2).
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
