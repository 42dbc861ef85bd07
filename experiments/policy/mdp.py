"""The second part: estimators on the grid world, compared with the exact gradient."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rgrad
from experiments.common.progress import Advance
from experiments.policy.grid import (
    STATES,
    Walk,
    World,
    expected_gae_gradient,
    expected_return,
    make_world,
    values,
    walk,
)
from experiments.policy.rows import EXACT, SURE, Row, compared, directions, largest_z, make_row
from experiments.policy.settings import PolicySettings

STEPS, RATE = 12, 0.1  # of exact training, before the gradient is measured
STALE = 4  # steps of the older policy whose values are the wrong critic
EARLIER = 200  # episodes from which the learned critic was fitted, before


class GridFound(NamedTuple):
    rows: list[Row]
    bias: dict[str, np.ndarray]
    """By critic: the exact relative bias of GAE(lambda), for each lambda of `lambdas`."""
    lambdas: np.ndarray


class GridPlace(NamedTuple):
    world: World
    logits: np.ndarray
    critics: Mapping[str, np.ndarray]
    """By name: shape `(horizon, states)`."""
    gradient: np.ndarray
    """The exact one."""


def study_grid(settings: PolicySettings, key: Array, advance: Advance) -> GridFound:
    for_critic, for_measure = jax.random.split(key)
    place = place_of(settings, for_critic)
    names = [*_fixed(), *(f"gae({decay:g})+{critic}" for critic in place.critics for decay in settings.decays)]
    lambdas = np.linspace(0, 1, 21)
    bias, exact = exact_biases(place, settings.decays, lambdas)
    advance(1)
    truth = place.gradient
    means = {name: exact.get(name, truth) for name in names}
    moments = measure(settings, place, means, for_measure)
    advance(1)
    rows, size = [], float(truth @ truth)
    for i, (name, own) in enumerate(means.items()):
        found = compared(own, truth)
        z = largest_z(moments.mean[0][i], moments.standard_error[0][i], own @ directions(truth))
        variance, half = float(moments.mean[1][i]), 1.96 * float(moments.standard_error[1][i])
        rows.append(make_row(
            part="grid", estimator=name, unbiased=found["bias"] <= EXACT, **found, variance=variance / size,
            variance_low=(variance - half) / size, variance_high=(variance + half) / size,
            signal_to_noise=float(own @ own / variance), measured_z=z, holds=z <= SURE,
        ))  # fmt: skip
    return GridFound(rows, bias, lambdas)


def _fixed() -> tuple[str, ...]:
    return ("reinforce", "reward_to_go", "value_baseline+exact", "value_baseline+learned")


def place_of(settings: PolicySettings, key: Array) -> GridPlace:
    """A policy after some steps of exact training, its exact gradient, and three critics."""
    world = make_world(settings.wind)
    optimizer = optax.adam(RATE)
    value = lambda x: expected_return(x, world, settings.horizon)

    def whole() -> tuple[Array, Array, Array, Array]:
        def step(carry: Any, _: None) -> tuple[Any, Array]:
            logits, state = carry
            updates, state = optimizer.update(-jax.grad(value)(logits), state)
            return (optax.apply_updates(logits, updates), state), logits

        first = jnp.zeros((STATES, 4), jnp.float64)
        (logits, _), before = jax.lax.scan(step, (first, optimizer.init(first)), None, STEPS)
        exact, stale = (values(x, world, settings.horizon) for x in (logits, before[STALE]))
        return logits, exact, stale, jax.grad(value)(logits)

    with jax.enable_x64(True):
        logits, exact, stale, slope = map(np.asarray, jax.jit(whole)())
    gradient = slope.ravel()
    learned = fitted_critic(jnp.asarray(logits, float), world, settings.horizon, key)
    critics = {"exact": exact, "learned": np.asarray(learned, np.float64), "stale": stale}
    return GridPlace(world, logits, critics, gradient)


def fitted_critic(logits: Array, world: World, horizon: int, key: Array) -> Array:
    """The mean return to go from each state in earlier episodes, whatever the step: a table, as many would fit."""
    seen = jax.jit(jax.vmap(lambda k: walk(jnp.asarray(logits, float), world, horizon, k)))(
        jax.random.split(key, EARLIER)
    )
    to_go = jax.vmap(lambda w: rgrad.discounted_returns(w.rewards, mask=w.alive))(seen)
    states, alive = np.asarray(seen.states), np.asarray(seen.alive)
    total = np.bincount(states[alive], np.asarray(to_go)[alive], STATES)
    count = np.bincount(states[alive], minlength=STATES)
    return jnp.broadcast_to(jnp.asarray(total / np.maximum(count, 1), float), (horizon, STATES))


def exact_biases(
    place: GridPlace, decays: tuple[float, ...], lambdas: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By critic, the relative bias for all lambdas; and by `gae(lambda)+critic`, the exact mean of its gradient."""
    bias, exact = dict[str, np.ndarray](), dict[str, np.ndarray]()
    with jax.enable_x64(True):
        logits = jnp.asarray(place.logits, jnp.float64)
        one = lambda critic, decay: expected_gae_gradient(logits, place.world, critic, decay)
        critics, every = (
            jnp.asarray(np.stack(list(place.critics.values()))),
            jnp.asarray([*decays, *lambdas], jnp.float64),
        )
        means = np.asarray(jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(critics, every))
    for name, mean in zip(place.critics, means.reshape(*means.shape[:2], -1), strict=True):
        exact |= {f"gae({decay:g})+{name}": mean[i] for i, decay in enumerate(decays)}
        off = np.linalg.norm(mean[len(decays) :] - place.gradient, axis=1)
        bias[name] = off / np.linalg.norm(place.gradient)
    return bias, exact


def measure(settings: PolicySettings, place: GridPlace, means: Mapping[str, np.ndarray], key: Array) -> rgrad.Moments:
    """The moments of each gradient of a batch, along some directions, and of its squared distance from its exact mean.

    The latter is the total variance.
    """
    logits = jnp.asarray(place.logits, float)
    centre = jnp.asarray(np.stack(list(means.values())), float)
    critics = jnp.asarray(np.stack(list(place.critics.values())), float)
    along = jnp.asarray(directions(place.gradient), float)
    decays = jnp.asarray(settings.decays, float)

    def draw(key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, settings.grid_episodes)
        seen = jax.vmap(lambda k: walk(logits, place.world, settings.horizon, k))(keys)
        plain = [
            jax.grad(lambda x, of=of: jax.vmap(partial(of, x))(seen).mean())(logits)
            for of in (whole_return, partial(to_go, critic=None))
        ]
        by_critic = lambda of: jax.vmap(lambda critic: jax.grad(lambda x: jax.vmap(partial(of, x, critic=critic))(seen).mean())(logits))  # fmt: skip
        baselines = by_critic(to_go)(critics[:2])
        gae = jax.vmap(lambda decay: by_critic(partial(advantage_return, decay=decay))(critics), out_axes=1)(decays)
        every = jnp.concatenate([jnp.stack(plain), baselines, gae.reshape(-1, *logits.shape)])
        flat = every.reshape(len(every), -1)
        return flat @ along, ((flat - centre) ** 2).sum(1)

    return rgrad.measure(draw, key, settings.grid_replicates)


def scores(logits: Array, seen: Walk) -> Array:
    return jax.nn.log_softmax(logits)[seen.states, seen.actions]


def whole_return(logits: Array, seen: Walk) -> Array:
    """REINFORCE: all rewards times the score of all actions."""
    total = jnp.where(seen.alive, scores(logits, seen), 0.0).sum()
    return rgrad.surrogate(seen.rewards.sum()[None], total[None]).sum()


def to_go(logits: Array, seen: Walk, critic: Array | None) -> Array:
    """Each action is charged for the rewards after it, less the critic's value of the state before it."""
    baselines = 0.0 if critic is None else critic[jnp.arange(len(critic)), seen.states]
    return rgrad.credit(seen.rewards, scores(logits, seen), baselines=baselines, mask=seen.alive)


def advantage_return(logits: Array, seen: Walk, critic: Array, decay: Array) -> Array:
    """Generalised advantages as the values of the score function."""
    at = critic[jnp.arange(len(critic)), seen.states]
    advantages = rgrad.generalized_advantages(seen.rewards, at, 1.0, decay, mask=seen.alive)
    return rgrad.surrogate(advantages, scores(logits, seen), mask=seen.alive).mean() * seen.alive.sum()


def work_grid(settings: PolicySettings) -> int:
    """Steps of the progress bar."""
    return 2
