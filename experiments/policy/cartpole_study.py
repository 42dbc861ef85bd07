"""Runs the third part: pieces of training with checkpoints, then the noise, the final returns and the curves."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.checkpoint import Saved
from experiments.policy.neural import ENOUGH, Lanes, final_returns, first_lanes, noise_of, piece_of
from experiments.policy.rows import Row, make_row, mean_and_error
from experiments.policy.settings import PolicySettings

POINTS = 40  # of a learning curve
PLACE = 200.0  # the noise is measured where the mean return is about this


class Training(NamedTuple):
    """The state of the training after a number of pieces."""

    piece: int
    lanes: Lanes
    returns: np.ndarray
    """Shape `(updates, lanes)`, the mean return of each batch; nan where a lane rested."""
    used: np.ndarray
    """The same shape: steps of the environment after each update."""
    early: Lanes
    """The lanes after the first piece: where the noise is measured."""


class CartpoleFound(NamedTuple):
    rows: list[Row]
    steps: np.ndarray
    curves: dict[str, np.ndarray]
    """By method: the mean return of a batch at these steps, shape `(seeds, points)`."""


def first_training(settings: PolicySettings, key: jax.Array) -> Training:
    lanes = first_lanes(settings, key)
    nothing = np.zeros((0, len(settings.methods) * settings.seeds))
    return Training(0, lanes, nothing, nothing, lanes)


def pieces(settings: PolicySettings, at: Training, key: jax.Array) -> Iterator[Training]:
    """Trains until every lane has used up its steps. The random numbers depend only on the number of the piece."""
    if done(settings, at):
        return
    run = piece_of(settings)
    while not done(settings, at):
        lanes, (returns, used) = run(at.lanes, jax.random.fold_in(key, at.piece))
        at = Training(
            at.piece + 1, lanes, np.concatenate([at.returns, np.asarray(returns)]), np.concatenate([at.used, np.asarray(used)]),
            at.early if at.piece else lanes,
        )  # fmt: skip
        yield at


def done(settings: PolicySettings, at: Training) -> bool:
    return bool(np.asarray(at.lanes.used).min() >= settings.env_steps)


def share_done(settings: PolicySettings, at: Training) -> float:
    """From 0 to 1: of the steps of the slowest lane."""
    return min(1.0, float(np.asarray(at.lanes.used).min()) / settings.env_steps)


def to_save(at: Training) -> Saved:
    lanes = [np.asarray(x) for x in jax.tree.leaves((at.lanes, at.early))]
    return Saved(at.piece, [*lanes, at.returns, at.used], [])


def restored(settings: PolicySettings, saved: Saved, key: jax.Array) -> Training:
    lanes = first_lanes(settings, key)
    *leaves, returns, used = saved.arrays
    now, early = jax.tree.unflatten(jax.tree.structure((lanes, lanes)), [jnp.asarray(x) for x in leaves])
    return Training(saved.step, now, returns, used, early)


def found_of(settings: PolicySettings, at: Training, key: jax.Array) -> CartpoleFound:
    """The rows and the curves of a finished training."""
    for_noise, for_returns = jax.random.split(key)
    ends = final_returns(settings, at.lanes.params, for_returns)
    # Of all networks after the first piece, the one whose last batch is nearest to the place.
    last = [of[~np.isnan(of)][-1] for of in at.returns[: settings.every].T]
    middle = int(np.argmin(np.abs(np.array(last) - PLACE)))
    one = jax.tree.map(lambda x: x[middle], at.early)
    noise = noise_of(settings, one.params, one.critic, for_noise)
    steps = np.linspace(0, settings.env_steps, POINTS + 1)[1:]
    curves, rows = dict[str, np.ndarray](), []
    for i, name in enumerate(settings.methods):
        lanes = range(i * settings.seeds, (i + 1) * settings.seeds)
        curves[name] = np.array([_curve(at.used[:, j], at.returns[:, j], steps) for j in lanes])
        variance, _, ratio, _ = noise[name][1:]
        (end, error) = mean_and_error(ends[i])
        rows.append(make_row(
            part="cartpole", estimator=name, unbiased=True, variance=variance.value, variance_low=variance.low,
            variance_high=variance.high, signal_to_noise=ratio.value, end=end, end_error=error,
            end_objective=float(curves[name].mean()), reached=int((ends[i] >= ENOUGH).sum()),
        ))  # fmt: skip
    return CartpoleFound(rows, steps, curves)


def _curve(used: np.ndarray, returns: np.ndarray, steps: np.ndarray) -> np.ndarray:
    ran = ~np.isnan(returns)
    return np.interp(steps, used[ran], returns[ran])
