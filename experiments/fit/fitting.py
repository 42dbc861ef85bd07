"""Many simultaneous fits of a target with several estimators, and the gradients of the target at a point."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rgrad
from experiments.common.progress import Advance

Values = dict[str, Array]
AVERAGE = "score_function+moving_average"
EXACT = "exact"  # the name of the estimator if nothing is sampled
FAR = 1e6  # a fit this many units from the start has diverged
POINTS = 400  # recorded points of a trajectory


class FitTarget(NamedTuple):
    """The function to minimise, `sampled + rest`, of parameters by name."""

    name: str
    sampled: Callable[[Values, Array, int, rgrad.Estimator], Array] | None
    """Maps (parameters, key, n, estimator) to an estimate of the expectation. None if nothing is sampled."""
    rest: Callable[[Values], Any]
    start: Values
    units: Mapping[str, float]
    """Approximate distance that a parameter has to move. Steps are taken in these units."""
    unit: float
    """Approximate size of the target. Its gradient is taken in this unit."""
    feasible: Callable[[Values], Array]
    natural: Callable[[Values], Values]
    """Maps the parameters to those in which results are reported."""


class Fits(NamedTuple):
    """The fits of one target with one estimator, in natural parameters by name."""

    final: dict[str, np.ndarray]
    """Shape (fits,)."""
    steps: np.ndarray
    """The recorded steps, shape (points,)."""
    median: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    """Quantiles over the fits at these steps: 50, 5 and 95 %. Shape (points,)."""
    stopped_at: np.ndarray
    """Shape (fits,). -1 for a fit that did not stop."""
    diverged: np.ndarray


def run_fits(
    target: FitTarget,
    estimators: Mapping[str, rgrad.Estimator],
    optimizer: optax.GradientTransformation,
    key: Array,
    steps: int,
    samples: int,
    fits: int,
    advance: Advance,
) -> dict[str, Fits]:
    """`fits` fits with each estimator. One compiled program runs all of them, for a part of the steps at a time."""
    losses = {name: _loss(target, name, estimator, samples) for name, estimator in estimators.items()}
    scaled = {name: value / target.units[name] for name, value in target.start.items()}
    real = lambda u: {name: value * target.units[name] for name, value in u.items()}
    states = {name: rgrad.moving_average() if name == AVERAGE else None for name in losses}
    keys = jax.random.split(key, fits)
    piece = -(-steps // 20)

    def go_on(count: int, at: dict[str, rgrad.Fit]) -> dict[str, rgrad.Fit]:
        one = lambda name, fit, key: rgrad.fit(
            losses[name], fit, optimizer, key, count,
            feasible=lambda u: target.feasible(real(u)), record=lambda u: target.natural(real(u)),
        )  # fmt: skip
        return {name: jax.vmap(partial(one, name))(fit, keys) for name, fit in at.items()}

    jitted = jax.jit(go_on, static_argnums=0)
    begin = lambda state: jax.tree.map(
        lambda x: jnp.broadcast_to(x, (fits, *x.shape)), rgrad.initial_fit(scaled, optimizer, state)
    )
    at = {name: begin(state) for name, state in states.items()}
    traces: dict[str, list[Any]] = {name: [] for name in losses}
    for first in range(0, steps, piece):
        count = min(piece, steps - first)
        at = jitted(count, at)
        for name, fit in at.items():
            kept = _kept(first, count, steps)
            quantiles = lambda x, k=kept: np.quantile(np.asarray(x)[:, k - first], (0.5, 0.05, 0.95), axis=0)  # noqa: B023
            traces[name].append((kept, jax.tree.map(quantiles, fit.trace.params)))
        advance(count * len(losses))
    return {name: _finish(target, fit, real, traces[name]) for name, fit in at.items()}


def _kept(first: int, count: int, steps: int) -> np.ndarray:
    """The recorded steps from `first` on: multiples of a stride that gives about `POINTS` in total, and the last step."""
    numbers = np.arange(first, first + count)
    return numbers[(numbers % max(1, steps // POINTS) == 0) | (numbers == steps - 1)]


def _finish(target: FitTarget, fit: rgrad.Fit, real: Callable[[Values], Values], traces: list[Any]) -> Fits:
    names = traces[0][1]
    q = {name: np.concatenate([quantiles[name] for _, quantiles in traces], axis=1) for name in names}
    return Fits(
        final={name: np.asarray(x, np.float64) for name, x in jax.vmap(target.natural)(real(fit.params)).items()},
        steps=np.concatenate([kept for kept, _ in traces]),
        median={name: x[0] for name, x in q.items()},
        low={name: x[1] for name, x in q.items()},
        high={name: x[2] for name, x in q.items()},
        stopped_at=np.asarray(fit.stopped_at),
        diverged=np.asarray(fit.diverged),
    )


def _loss(target: FitTarget, name: str, estimator: rgrad.Estimator, samples: int) -> Callable[..., Any]:
    """The loss for `rgrad.fit`: the target in its unit, as a function of parameters in their units."""

    def total(u: Values, value: Any) -> Array:
        params = {k: v * target.units[k] for k, v in u.items()}
        far = jnp.stack([jnp.max(jnp.abs(u[k] - target.start[k] / target.units[k])) for k in u]).max() > FAR
        return (value(params) + target.rest(params)) / target.unit + jnp.where(far, jnp.nan, 0.0)

    sampled = target.sampled
    if sampled is None:
        return lambda u, key: total(u, lambda params: 0.0)
    if name != AVERAGE:
        return lambda u, key: total(u, lambda params: sampled(params, key, samples, estimator))

    def loss(u: Values, average: rgrad.MovingAverage, key: Array) -> tuple[Array, rgrad.MovingAverage]:
        seen = []

        def value(params: Values) -> Array:
            seen.append(sampled(params, key, samples, partial(rgrad.score_function, baseline=average)))
            return seen[0]

        return total(u, value), average.update(seen[0])  # the value reads the average before the update

    return loss


def gradients(
    target: FitTarget,
    estimators: Mapping[str, rgrad.Estimator],
    points: Mapping[str, Mapping[str, Values]],
    key: Array,
    samples: int,
    replicates: int,
) -> rgrad.Moments:
    """The moments of the gradient from `samples` samples, per call, from one program.

    The keys are the place, the estimator, the way to write the parameters, and the parameter.

    Args:
        points: parameters by place, and by a name for each way to write them.
    """
    sampled = target.sampled
    assert sampled is not None

    def draw(name: str, ways: Mapping[str, Values], key: Array) -> dict[str, Values]:
        estimator = estimators[name]
        if name == AVERAGE:  # a state after one earlier call
            before, key = jax.random.split(key)
            seen = sampled(next(iter(ways.values())), before, samples, rgrad.score_function)
            estimator = partial(rgrad.score_function, baseline=rgrad.moving_average().update(seen))
        loss = lambda params: sampled(params, key, samples, estimator) + target.rest(params)
        return {way: jax.grad(loss)(params) for way, params in ways.items()}

    every = lambda key: {place: {name: draw(name, ways, key) for name in estimators} for place, ways in points.items()}
    return rgrad.measure(every, key, replicates)
