"""Rows with our measurement, one published value, and their difference in standard errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array

import rgrad
from experiments.common.progress import Advance

Row = dict[str, Any]
ROUNDING = 1e-9  # 32-bit rounding of a variance that is exactly zero
NORMAL = 1.96  # the quantile of a two-sided 95 % interval
CHUNK = 2**14  # replicates between updates of the progress bar


class Claim(NamedTuple):
    """A published value with its standard error, which comes from sampling and rounding in the source."""

    source: str
    quantity: str
    estimator: str
    parameter: str
    value: float
    error: float = 0.0


def measure(draw: Callable[[Array], Any], key: Array, replicates: int, advance: Advance) -> rgrad.Moments:
    """Calls `rgrad.measure` chunk by chunk."""
    moments = None
    for start in range(0, replicates, CHUNK):
        count = min(CHUNK, replicates - start)
        part = rgrad.measure(draw, key, count, start=start)
        moments = part if moments is None else moments.merge(part)
        advance(count / replicates)
    assert moments is not None
    return moments


def number_in(moments: rgrad.Moments, *place: Any) -> rgrad.Moments:
    """The moments of one number of the tree, e.g. `number_in(moments, "score_function", "mu", 3)`."""

    def at(tree: Any) -> Any:
        for step in place:
            tree = tree[step]
        return tree

    return rgrad.Moments(moments.count, *(at(tree) for tree in moments[1:]))


def row_of_mean(claim: Claim, ours: rgrad.Moments) -> Row:
    """z = (ours - published) / sqrt(sum of both squared standard errors)."""
    z = (ours.mean - claim.value) / np.hypot(ours.standard_error, claim.error)
    return _row(claim, ours.mean, ours.interval(), z)


def row_of_variance(claim: Claim, ours: rgrad.Moments) -> Row:
    """z of a variance. Its cube root is nearly normal: relative to the truth, it has mean 1 - a and variance a.

    Here a = 2 / (9 degrees of freedom) (Wilson and Hilferty 1931). `Moments.variance_interval` uses the same
    approximation. So a published value without error has |z| < 1.96 if it lies in the interval.
    """
    variance = ours.variance
    if max(variance, claim.value) <= ROUNDING:
        return _row(claim, variance, ours.variance_interval(), 0.0)
    mine, theirs = np.cbrt(variance), np.cbrt(claim.value)
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite or nan if one of them is exactly zero
        a = 2 / (9 * ours.variance_freedom)
        b = (claim.error / variance) ** 2 / 9
        z = (mine * (1 - b) - theirs * (1 - a)) / np.hypot(theirs * np.sqrt(a), mine * np.sqrt(b))
    return _row(claim, variance, ours.variance_interval(), z)


def row_of_order(claim: Claim, larger: rgrad.Moments, smaller: rgrad.Moments) -> Row:
    """A published order of two variances: their ratio should be above 1. Only a ratio below 1 contradicts it.

    The two are independent. The logarithm of a sample variance has the variance 2 / (degrees of freedom).
    """
    log_ratio = np.log(larger.variance / smaller.variance)
    error = np.sqrt(2 / larger.variance_freedom + 2 / smaller.variance_freedom)
    interval = np.exp(log_ratio - NORMAL * error), np.exp(log_ratio + NORMAL * error)
    return _row(claim, np.exp(log_ratio), interval, min(0.0, log_ratio / error))


def errors_of(repetitions: int, ours: rgrad.Moments) -> dict[str, float]:
    """Standard errors of the mean and the variance over the repetitions. The fourth moment is our own measurement."""
    n = repetitions
    return {
        "mean": float(np.sqrt(ours.variance / n)),
        "variance": float(np.sqrt((ours.m4 - ours.m2**2 * (n - 3) / (n - 1)) / n)),
    }


def _row(claim: Claim, ours: Any, interval: tuple[Any, Any], z: Any) -> Row:
    return {
        "source": claim.source,
        "quantity": claim.quantity,
        "estimator": claim.estimator,
        "parameter": claim.parameter,
        "published": float(claim.value),
        "published_error": float(claim.error),
        "ours": float(ours),
        "low": float(interval[0]),
        "high": float(interval[1]),
        "z": float(z),
    }
