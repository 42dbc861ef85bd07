"""A grid world with a wind, and the exact gradient of a policy by backward recursion."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rgrad

SIDE = 5
STATES = SIDE * SIDE
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right
START, GOAL, PIT = 0, STATES - 1 - SIDE, STATES - 3  # top left; the end of the fourth row; in the last row
GAIN, LOSS, COST = 1.0, -1.0, -0.04  # at the goal, in the pit, of every step


class World(NamedTuple):
    """The dynamics, as arrays. The goal and the pit end an episode."""

    to: np.ndarray
    """Shape `(states, actions, states)`: probabilities of the next state."""
    reward: np.ndarray
    """Shape `(states, actions)`: the expected reward, given the state before."""
    on_arrival: np.ndarray
    """Shape `(states,)`: the reward of a move, by the state that it leads to."""
    over: np.ndarray
    """Shape `(states,)`: whether the episode has ended."""


def make_world(wind: float) -> World:
    """A move that would leave the grid stays. After the move, the wind pushes one cell down with probability `wind`."""
    to = np.zeros((STATES, len(MOVES), STATES))
    over = np.isin(np.arange(STATES), (GOAL, PIT))
    inside = lambda x: min(max(x, 0), SIDE - 1)
    for state in range(STATES):
        for action, (down, right) in enumerate(MOVES):
            row, column = inside(state // SIDE + down), inside(state % SIDE + right)
            to[state, action, row * SIDE + column] += 1 - wind
            to[state, action, inside(row + 1) * SIDE + column] += wind
    on_arrival = np.where(np.arange(STATES) == GOAL, GAIN, np.where(np.arange(STATES) == PIT, LOSS, 0.0)) + COST
    to[over] = np.eye(STATES)[np.flatnonzero(over)][:, None]
    reward = np.where(over[:, None], 0.0, to @ on_arrival)
    return World(to, reward, on_arrival, over)


def values(logits: Array, world: World, horizon: int) -> Array:
    """The exact value of each state before each step, by backward recursion. Shape `(horizon, states)`."""
    policy = jax.nn.softmax(logits)
    to, reward = jnp.asarray(world.to, logits.dtype), jnp.asarray(world.reward, logits.dtype)

    def before(after: Array, _: None) -> tuple[Array, Array]:
        now = (policy * (reward + to @ after)).sum(1)
        return now, now

    return lax.scan(before, jnp.zeros(STATES, logits.dtype), None, horizon, reverse=True)[1]


def expected_return(logits: Array, world: World, horizon: int) -> Array:
    return values(logits, world, horizon)[0, START]


def expected_gae_gradient(logits: Array, world: World, critic: Array, decay: float) -> Array:
    """The exact mean of the gradient with GAE(lambda) and any critic of shape `(horizon, states)`, by recursion.

        G_t(s, a) = R(s, a) + E[V_{t+1}(s')] - V_t(s) + lambda E[G_{t+1}(s', a')]
        mean = sum_t sum_s d_t(s) sum_a pi(a | s) G_t(s, a) d log pi(a | s)

    d_t is the probability of being in s before step t, without having reached the end.
    """
    policy = jax.nn.softmax(logits)
    to, reward = jnp.asarray(world.to, logits.dtype), jnp.asarray(world.reward, logits.dtype)
    alive = jnp.asarray(~world.over, logits.dtype)
    nothing = jnp.zeros(STATES, logits.dtype)
    here = critic * alive  # nothing follows the end
    after = jnp.concatenate([here[1:], nothing[None]])

    def before(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        now, then = step
        g = alive[:, None] * (reward + to @ (then + decay * later) - now[:, None])
        return (policy * g).sum(1), g

    advantages = lax.scan(before, nothing, (here, after), reverse=True)[1]

    def forward(at: Array, _: None) -> tuple[Array, Array]:
        return alive * jnp.einsum("s,sa,sax->x", at, policy, to), at

    visits = lax.scan(forward, nothing.at[START].set(1.0), None, len(critic))[1]
    weight = lax.stop_gradient(jnp.einsum("ts,sa,tsa->sa", visits, policy, advantages))
    return jax.grad(lambda x: (weight * jax.nn.log_softmax(x)).sum())(logits)


class Walk(NamedTuple):
    """One episode, with padding after its end."""

    states: Array
    actions: Array
    rewards: Array
    alive: Array
    """Shape `(horizon,)` each; alive is False for padding."""


def walk(logits: Array, world: World, horizon: int, key: Array) -> Walk:
    """One episode, by inversion of two uniform numbers for each step."""
    below_action = jnp.cumsum(jax.nn.softmax(logits), axis=1)
    below_state = jnp.cumsum(jnp.asarray(world.to, logits.dtype), axis=2)
    arrival, over = jnp.asarray(world.on_arrival, logits.dtype), jnp.asarray(world.over)

    def step(state: Array, u: Array) -> tuple[Array, Walk]:
        action = jnp.minimum((below_action[state] < u[0]).sum(), len(MOVES) - 1)
        after = jnp.minimum((below_state[state, action] < u[1]).sum(), STATES - 1)
        alive = ~over[state]
        return after, Walk(state, action, jnp.where(alive, arrival[after], 0.0), alive)

    return lax.scan(step, jnp.asarray(START), rgrad.noise.uniform(key, (horizon, 2)))[1]
