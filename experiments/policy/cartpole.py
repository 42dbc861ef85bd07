"""The cart and pole, in plain JAX: the dynamics of Barto, Sutton and Anderson (1983) as in Gymnasium's CartPole-v1."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FAR, TILT = 2.4, 12 * 2 * jnp.pi / 360  # an episode ends beyond these
START = 0.05  # the first state is uniform on +- this
HORIZON = 500
ACTIONS = 2
Params = Mapping[str, Any]


class Episodes(NamedTuple):
    """A batch of episodes, with padding after their ends. The first axis is the step."""

    states: Array
    """Shape `(T, ..., 4)`, before each action."""
    actions: Array
    """Shape `(T, ...)`, 0 or 1."""
    alive: Array
    """Shape `(T, ...)`, False for padding. The reward of a step is 1."""


def moved(state: Array, action: Array) -> Array:
    """The next state, by Euler's method. Shape `(..., 4)`: position, velocity, angle and angular velocity."""
    x, speed, angle, turning = jnp.moveaxis(state, -1, 0)
    force = jnp.where(action == 1, FORCE, -FORCE)
    mass, weight = CART + POLE, POLE * HALF_LENGTH
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    pull = (force + weight * turning**2 * sin) / mass
    angular = (GRAVITY * sin - cos * pull) / (HALF_LENGTH * (4 / 3 - POLE * cos**2 / mass))
    acceleration = pull - weight * angular * cos / mass
    return jnp.stack(
        [x + STEP * speed, speed + STEP * acceleration, angle + STEP * turning, turning + STEP * angular], axis=-1
    )


def upright(state: Array) -> Array:
    return (jnp.abs(state[..., 0]) <= FAR) & (jnp.abs(state[..., 2]) <= TILT)


def initial_policy(key: Array, hidden: int) -> Params:
    """A network with two tanh layers. The last layer starts near 0, so both actions are about equally likely."""
    sizes = (4, hidden, hidden, ACTIONS)
    scales = (1.0, 1.0, 0.01)
    layers = []
    for i, (k, scale) in enumerate(zip(jax.random.split(key, 3), scales, strict=True)):
        weight = scale * (1 / sizes[i]) ** 0.5 * jax.random.normal(k, (sizes[i], sizes[i + 1]))
        layers.append({"weight": weight, "bias": jnp.zeros(sizes[i + 1])})
    return {f"layer{i}": layer for i, layer in enumerate(layers)}


UNITS = jnp.array([1.0, 1.0, 0.1, 1.0])  # of the state, so that the inputs of the network are of order 1


def scores(params: Params, states: Array) -> Array:
    """The logit of each action. Shape `(..., 2)`."""
    h = states / UNITS.astype(states.dtype)
    for name in ("layer0", "layer1"):
        h = jnp.tanh(h @ params[name]["weight"] + params[name]["bias"])
    return h @ params["layer2"]["weight"] + params["layer2"]["bias"]


def log_probs(params: Params, states: Array, actions: Array) -> Array:
    every = jax.nn.log_softmax(scores(params, states))
    return jnp.where(actions == 1, every[..., 1], every[..., 0])


def starts(key: Array, episodes: int, group: int) -> Array:
    """First states, shape `(episodes, 4)`. Each group of `group` episodes has the same one."""
    return jnp.repeat(jax.random.uniform(key, (episodes // group, 4), minval=-START, maxval=START), group, axis=0)


def rollout(params: Params, key: Array, first: Array, horizon: int) -> Episodes:
    """Episodes from these first states, of shape `(n, 4)`, by a scan over the whole horizon."""

    def step(carry: tuple[Array, Array], u: Array) -> tuple[tuple[Array, Array], Episodes]:
        state, alive = carry
        action = _act(params, state, u)
        after = jnp.where(alive[..., None], moved(state, action), state)
        return (after, alive & upright(after)), Episodes(state, action, alive)

    uniform = jax.random.uniform(key, (horizon, len(first)))
    return lax.scan(step, (first, jnp.ones(len(first), bool)), uniform)[1]


def rollouts(params: Params, key: Array, first: Array, active: Array, horizon: int) -> tuple[Episodes, Array]:
    """As `rollout`, for many policies at once, until the last episode has ended. Also returns the number of steps.

    Args:
        params: with a leading axis S, one policy for each seed.
        first: shape `(S, n, 4)`.
        active: shape `(S,)`. The others have no steps.
    """
    shape = first.shape[:2]

    def going(carry: tuple[Array, Array, Array, Episodes]) -> Array:
        t, _, alive, _ = carry
        return (t < horizon) & alive.any()

    def step(carry: tuple[Array, Array, Array, Episodes]) -> tuple[Array, Array, Array, Episodes]:
        t, state, alive, seen = carry
        u = jax.random.uniform(jax.random.fold_in(key, t), shape)
        action = jax.vmap(_act)(params, state, u)
        after = jnp.where(alive[..., None], moved(state, action), state)
        put = lambda buffer, x: lax.dynamic_update_index_in_dim(buffer, x, t, 0)
        seen = Episodes(put(seen.states, state), put(seen.actions, action), put(seen.alive, alive))
        return t + 1, after, alive & upright(after), seen

    empty = Episodes(
        jnp.zeros((horizon, *first.shape), first.dtype),
        jnp.zeros((horizon, *shape), int),
        jnp.zeros((horizon, *shape), bool),
    )
    alive = jnp.broadcast_to(active[:, None], shape)
    t, _, _, seen = lax.while_loop(going, step, (jnp.asarray(0), first, alive, empty))
    return seen, t


def _act(params: Params, state: Array, u: Array) -> Array:
    logits = scores(params, state)
    return (u < jax.nn.sigmoid(logits[..., 1] - logits[..., 0])).astype(int)
