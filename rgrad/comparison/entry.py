"""`Entry`: the measurements of one estimator, and what can be computed from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rgrad.comparison.verdicts import EFFECTIVE, Mean
from rgrad.measurement.moments import Moments

SLACK = 1.1  # the recommended estimator may be less efficient than the best by this factor
NEGLIGIBLE = 1e-6  # a share of the total variance


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
    def suspected(self) -> bool:
        """Whether the total variance is suspected to be infinite: that of a coordinate that contributes to it is."""
        return bool((self.heavy & (self.moments.variance > NEGLIGIBLE * self.total)).any())

    @property
    def eligible(self) -> bool:
        return self.finite and not self.suspected and not self.silent

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


def rounding(moments: Moments, total: float) -> float:
    """The largest variance that rounding may explain: 4 eps of the size of the gradient, with its total variance."""
    eps = float(jnp.finfo(jnp.result_type(float)).eps)
    return (4 * eps) ** 2 * (float(np.sum(moments.mean**2)) + total)


def columns_of(moments: Moments, at: slice) -> Moments:
    """The moments of some coordinates, of moments with shape `(coordinates,)`."""
    return Moments(moments.count, *(values[at] for values in moments[1:6]))
