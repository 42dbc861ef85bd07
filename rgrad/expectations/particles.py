"""Baselines over particles: independent runs of a program, mapped over a named axis."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rgrad.distributions.admission import parts
from rgrad.distributions.cdfs import MIXTURES
from rgrad.distributions.implicit import has_rsample
from rgrad.errors import Unsuitable
from rgrad.estimators.baselines import MovingAverage, baseline_values, leave_one_out, moving_average, plain
from rgrad.estimators.control_variates import optimal
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import ESTIMATORS
from rgrad.protocols import Estimator
from rgrad.tracing.independence import Independent, independent

PARTICLES = "rgrad_particles"  # the axis of the particles


def default_estimator(q: Any, centred: bool) -> Estimator:
    """The estimator of a draw that names none. `centred`: its baseline may use other particles."""
    # The samples of a mixture move through the gaps between its components, where they are rarely drawn.
    if has_rsample(q) and not any(isinstance(part, MIXTURES) for part in parts(q)):
        return reparameterized
    return ESTIMATORS["score_function+leave_one_out" if centred else "score_function"].estimator


def over_particles(estimator: Estimator, n: int, caller: str) -> Estimator:
    """The estimator with its baseline, if it has one, computed over the particles.

    Raises:
        ValueError: the baseline cannot be.
    """
    if not isinstance(estimator, partial) or "baseline" not in estimator.keywords:
        return estimator
    found = baseline_over_particles(estimator.keywords["baseline"], n, caller)
    found = independent(found) if callable(found) else found
    return partial(estimator.func, *estimator.args, **{**estimator.keywords, "baseline": found})


def baseline_over_particles(baseline: Any, n: int, caller: str) -> Any:
    """A number as it is. A function of the values of all particles becomes a function of a particle's own values.

    The latter is called within a `vmap` with the axis `PARTICLES`. It returns one baseline for each of its values, from
    the same values of the other particles.

    Raises:
        ValueError: it needs a state, or scores; or `leave_one_out` with n = 1.
    """
    baseline = plain(baseline)
    if isinstance(baseline, MovingAverage) or baseline is moving_average:
        raise Unsuitable(
            f"{caller}: there is no place to keep the state of a moving_average; keep the average of earlier calls yourself, "
            "and pass its number: baseline=average.value"
        )
    if baseline is optimal:
        raise Unsuitable(f"{caller}: optimal needs several samples of one distribution; use rgrad.leave_one_out")
    if isinstance(baseline, Independent) and not callable(baseline.baseline) and jnp.ndim(baseline.baseline) == 0:
        return baseline.baseline
    if not callable(baseline):
        return baseline
    if n == 1 and baseline is leave_one_out:
        raise Unsuitable(
            f"{caller}: leave_one_out needs another particle to take a mean of; ask for at least 2 particles, or use another "
            "baseline"
        )

    def of_own(values: Array) -> Array:
        every = lax.all_gather(lax.stop_gradient(values), PARTICLES)
        each = jax.vmap(partial(baseline_values, baseline), 1, 1)(every.reshape(n, -1))
        return each[lax.axis_index(PARTICLES)].reshape(values.shape)

    return of_own
