"""The third part: a network that balances a pole, trained at equal steps of the environment, and the noise of its gradient."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import rgrad
from experiments.policy.cartpole import HORIZON, Episodes, Params, initial_policy, log_probs, rollout, rollouts, starts
from experiments.policy.settings import PolicySettings

PIECE = 50  # steps of the episodes whose gradient is computed at once
FEATURES = 15
ENOUGH = 400.0  # of the largest return, 500
Advantages = Callable[[Array, Array, int], Array]
"""`(returns to go, the critic's values, group size) -> advantages`, each of shape `(T, n)`."""


def _ids(x: Array, group: int) -> np.ndarray:
    return np.arange(x.shape[1]) // group


def _rloo(to_go: Array, values: Array, group: int) -> Array:
    """The whole return minus the mean of the other episodes from the same start."""
    return jnp.broadcast_to(rgrad.group_advantages(to_go[0], _ids(to_go, group)), to_go.shape)


def _rloo_to_go(to_go: Array, values: Array, group: int) -> Array:
    """The return to go minus the mean of that of the others at the same time. Episodes that have ended have 0."""
    return jax.vmap(lambda at: rgrad.group_advantages(at, _ids(to_go, group)))(to_go)


ADVANTAGES: Mapping[str, Advantages] = {
    "reinforce": lambda to_go, values, group: jnp.broadcast_to(to_go[0], to_go.shape),
    "reward_to_go": lambda to_go, values, group: to_go,
    "learned_baseline": lambda to_go, values, group: to_go - values,
    "rloo": _rloo,
    "rloo_to_go": _rloo_to_go,
}


def returns_to_go(alive: Array) -> Array:
    """Shape `(T, n)`, with 0 for padding. The reward of each step is 1."""
    return jax.vmap(lambda a: rgrad.discounted_returns(jnp.where(a, 1.0, 0.0), mask=a), 1, 1)(alive)


def features(states: Array) -> Array:
    """What the critic is linear in: polynomials of the state and the step. Shape `(T, n, 15)`."""
    t = jnp.broadcast_to((jnp.arange(len(states)) / HORIZON)[:, None], states.shape[:2])
    x, v, a, b = states[..., 0], states[..., 1], states[..., 2] * 10, states[..., 3]
    return jnp.stack(
        [jnp.ones_like(t), t, t**2, x, v, a, b, x**2, v**2, a**2, b**2, a * b, x * v, x * a, v * b], axis=-1
    )


def fitted_critic(seen: Episodes, to_go: Array) -> Array:
    """Least squares of the returns to go, for the *next* batch: a baseline must not have seen the actions it judges."""
    f = jnp.where(seen.alive[..., None], features(seen.states), 0.0).reshape(-1, FEATURES)
    ridge = 1e-3 * len(f) * jnp.eye(FEATURES)
    return jnp.linalg.solve(f.T @ f + ridge, f.T @ to_go.reshape(-1))


def all_advantages(seen: Episodes, critic: Array, methods: tuple[str, ...], group: int) -> Array:
    """By method, shape `(methods, T, n)`."""
    to_go = returns_to_go(seen.alive)
    values = jnp.where(seen.alive, features(seen.states) @ critic, 0.0)
    return jnp.stack([ADVANTAGES[name](to_go, values, group) for name in methods])


def batch_loss(params: Params, seen: Episodes, advantages: Array) -> Array:
    """`-(1/n) sum_t A_t log pi(a_t)`, summed over the steps of n episodes."""
    terms = rgrad.surrogate(
        advantages.ravel(), log_probs(params, seen.states, seen.actions).ravel(), mask=seen.alive.ravel()
    )
    return -terms.mean() * seen.alive.sum() / seen.alive.shape[1]


def gradient(params: Params, seen: Episodes, advantages: Array, pieces: Array) -> Params:
    """Of `batch_loss`, a few steps at a time, so that padding at the end costs nothing."""

    def of(i: Array, total: Params) -> Params:
        part = lambda x: lax.dynamic_slice_in_dim(x, i * PIECE, PIECE)
        slope = jax.grad(batch_loss)(params, jax.tree.map(part, seen), part(advantages))
        return jax.tree.map(jnp.add, total, slope)

    return lax.fori_loop(0, pieces, of, jax.tree.map(jnp.zeros_like, params))


class Lanes(NamedTuple):
    """The state of all training runs: one lane for each method and seed."""

    params: Params
    optimizer: Any
    critic: Array
    used: Array
    """Steps of the environment so far."""


def first_lanes(settings: PolicySettings, key: Array) -> Lanes:
    """The same networks for all methods."""
    params = jax.vmap(lambda k: initial_policy(k, settings.hidden))(jax.random.split(key, settings.seeds))
    lanes = len(settings.methods) * settings.seeds
    params = jax.tree.map(lambda x: jnp.concatenate([x] * len(settings.methods)), params)
    state = jax.vmap(optax.adam(settings.neural_rate).init)(params)
    return Lanes(params, state, jnp.zeros((lanes, FEATURES)), jnp.zeros(lanes, int))


def piece_of(settings: PolicySettings) -> Callable[[Lanes, Array], tuple[Lanes, tuple[Array, Array]]]:
    """`every` updates of all lanes. Also returns the mean return of each batch and the steps so far, by update and lane.

    A lane that has used up its steps rests.
    """
    optimizer, methods, seeds = optax.adam(settings.neural_rate), settings.methods, settings.seeds
    which = jnp.repeat(jnp.arange(len(methods)), seeds)

    def one(lane: Lanes, method: Array, seen: Episodes, pieces: Array, active: Array) -> tuple[Lanes, Array]:
        advantages = all_advantages(seen, lane.critic, methods, settings.same_start)[method]
        updates, state = optimizer.update(gradient(lane.params, seen, advantages, pieces), lane.optimizer)
        to_go = returns_to_go(seen.alive)
        after = Lanes(
            optax.apply_updates(lane.params, updates), state, fitted_critic(seen, to_go), lane.used + seen.alive.sum()
        )
        return jax.tree.map(lambda new, same: jnp.where(active, new, same), after, lane), to_go[0].mean()

    def update(lanes: Lanes, key: Array) -> tuple[Lanes, tuple[Array, Array]]:
        for_start, for_actions = jax.random.split(key)
        first = jax.vmap(lambda k: starts(k, settings.episodes, settings.same_start))(
            jax.random.split(for_start, seeds)
        )
        active = lanes.used < settings.env_steps
        seen, t = rollouts(lanes.params, for_actions, jnp.tile(first, (len(methods), 1, 1)), active, HORIZON)
        pieces = (t + PIECE - 1) // PIECE
        lanes, returns = jax.vmap(one, (0, 0, 1, None, 0))(lanes, which, seen, pieces, active)
        return lanes, (jnp.where(active, returns, jnp.nan), lanes.used)

    return jax.jit(lambda lanes, key: lax.scan(update, lanes, jax.random.split(key, settings.every)))


def final_returns(settings: PolicySettings, params: Params, key: Array, episodes: int = 64) -> np.ndarray:
    """The mean return of each lane over fresh episodes, with the stochastic policy."""
    lanes = len(settings.methods) * settings.seeds
    first = jnp.tile(starts(key, episodes, 1)[None], (lanes, 1, 1))
    seen, _ = jax.jit(partial(rollouts, horizon=HORIZON))(params, key, first, jnp.ones(lanes, bool))
    return np.asarray(seen.alive.sum(0).mean(1), np.float64).reshape(len(settings.methods), settings.seeds)


def noise_of(settings: PolicySettings, params: Params, critic: Array, key: Array) -> dict[str, rgrad.Noise]:
    """The noise of the gradient of one network, by method, with the same episodes for all."""

    def draw(key: Array) -> dict[str, Params]:
        for_start, for_actions = jax.random.split(key)
        first = starts(for_start, settings.episodes, settings.same_start)
        seen = rollout(params, for_actions, first, HORIZON)
        advantages = all_advantages(seen, critic, settings.methods, settings.same_start)
        slopes = jax.vmap(lambda a: jax.grad(batch_loss)(params, seen, a))(advantages)
        flat = jnp.concatenate([x.reshape(len(advantages), -1) for x in jax.tree.leaves(slopes)], axis=1)
        return dict(zip(settings.methods, flat, strict=True))

    noise = rgrad.measure_total(draw, key, settings.noise_replicates)
    return noise.leaves
