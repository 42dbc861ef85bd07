"""Sums of later rewards: `discounted_returns` and `generalized_advantages`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.policies.checks import as_floats, check_no_nan, check_shapes, kept


def discounted_returns(
    rewards: ArrayLike, discount: ArrayLike = 1.0, bootstrap: ArrayLike = 0.0, mask: ArrayLike | None = None
) -> Array:
    """The discounted sum of the rewards from each step of an episode on: the reward to go.

        G_t = r_t + discount_t G_{t+1},        G_T = bootstrap

    For one episode; use `jax.vmap` for several. With discount 1, the gradient of
    `rgrad.surrogate(returns - baselines, log_probs).sum()` is that of `rgrad.credit`. It is unbiased for the expected sum of
    rewards if baselines are functions of the past. With a discount below 1 it is not the gradient of any expected
    reward: the usual estimator leaves out the factor discount^t of step t, also called the discount of the state.

    Args:
        rewards: shape `(T,)`.
        discount: one number, or shape `(T,)` with 0 at the last step of each of several episodes in a row.
        bootstrap: what follows the last step, e.g. the value of the state in which the episode was cut off. 0 if it ended.
        mask: shape `(T,)`, False for padding, on either side or between steps. A masked step has a return of exactly 0,
            and no other return depends on it, even if its reward is nan.

    Returns:
        Shape `(T,)`. The derivative of the rewards is kept. If everything is masked in a traced mask (an episode that
        fills up a batch), it is 0.

    Raises:
        ValueError: shapes differ, a reward is nan, or nothing is kept.

    Example:
        >>> print(rgrad.discounted_returns(jnp.array([1.0, 0.0, 4.0]), discount=0.5))
        [2. 2. 4.]

    Source: Sutton and Barto 2018, Reinforcement learning, section 3.3, http://incompleteideas.net/book/the-book.html.
    """
    r = as_floats(rewards)
    keep = _episode("discounted_returns", "rewards", r, {"mask": mask}, mask)
    check_no_nan("discounted_returns", "rewards", rewards, mask)
    discounts = _discounts("discounted_returns", discount, r)

    def before(later: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, factor, there = step
        now = reward + factor * later
        return jnp.where(there, now, later), jnp.where(there, now, 0.0)

    steps = (jnp.where(keep, r, 0.0), jnp.where(keep, discounts, 1.0), keep)
    return lax.scan(before, jnp.asarray(bootstrap, r.dtype), steps, reverse=True)[1]


def generalized_advantages(
    rewards: ArrayLike,
    values: ArrayLike,
    discount: ArrayLike = 1.0,
    decay: ArrayLike = 0.95,
    bootstrap: ArrayLike = 0.0,
    mask: ArrayLike | None = None,
) -> Array:
    """Generalised advantage estimation, GAE(lambda), with lambda = `decay`.

        A_t = delta_t + discount_t decay A_{t+1},        delta_t = r_t + discount_t V_{t+1} - V_t

    For one episode; use `jax.vmap` for several. V_t is a critic's value of the state *before* action t.

    - `decay=1` is the reward to go minus the value: unbiased for the gradient of the expected sum of rewards (with
      discount 1), whatever the critic.
    - `decay=0` is the actor-critic: it has the least noise, and trusts the critic most.
    - For `decay < 1` it is unbiased only if the critic has the exact values of this policy. Otherwise the bias of A_t is
      that of `sum_k (discount decay)^k discount (1 - decay) V_{t+k+1}`. (V_t itself adds no bias to a score function.)

    Up to rounding, this is `truncated_generalized_advantage_estimation` of rlax 0.1.9, which has no mask. (rlax is not a
    dependency of rgrad.)

    Args:
        rewards: shape `(T,)`.
        values: shape `(T,)`.
        discount: one number, or shape `(T,)` with 0 at the last step of each of several episodes in a row.
        decay: lambda, from 0 to 1.
        bootstrap: the value of the state after the last step, in which the episode was cut off. 0 if it ended.
        mask: shape `(T,)`, False for padding, on either side or between steps. A masked step has an advantage of exactly
            0, and no other depends on it, even if its reward or value is nan.

    Returns:
        Shape `(T,)`, constants: no derivative flows through them. If everything is masked in a traced mask (an episode
        that fills up a batch), it is 0.

    Raises:
        ValueError: shapes differ, a reward or value is nan, or nothing is kept.

    Example:
        >>> rewards, values = jnp.array([1.0, 0.0, 4.0]), jnp.array([2.0, 2.0, 4.0])
        >>> print(rgrad.generalized_advantages(rewards, values, discount=0.5, decay=0.9))  # the values are exact
        [0. 0. 0.]

    Source: Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation,
    https://arxiv.org/abs/1506.02438.
    """
    r = lax.stop_gradient(as_floats(rewards))
    keep = _episode("generalized_advantages", "rewards", r, {"values": values, "mask": mask}, mask)
    check_no_nan("generalized_advantages", "rewards", rewards, mask)
    check_no_nan("generalized_advantages", "values", values, mask)
    v = lax.stop_gradient(jnp.asarray(values, r.dtype))
    discounts = _discounts("generalized_advantages", discount, r)
    share = jnp.asarray(decay, r.dtype)

    def before(later: tuple[Array, Array], step: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        advantage, value = later
        reward, here, factor, there = step
        now = reward + factor * value - here + factor * share * advantage
        return (jnp.where(there, now, advantage), jnp.where(there, here, value)), jnp.where(there, now, 0.0)

    steps = (jnp.where(keep, r, 0.0), jnp.where(keep, v, 0.0), jnp.where(keep, discounts, 1.0), keep)
    last = lax.stop_gradient(jnp.asarray(bootstrap, r.dtype))
    return lax.scan(before, (jnp.zeros_like(last), last), steps, reverse=True)[1]


def _episode(caller: str, first: str, x: Array, others: dict[str, ArrayLike | None], mask: ArrayLike | None) -> Array:
    """Which steps are kept.

    Raises:
        ValueError: the arrays are not those of one episode, or nothing is kept.
    """
    if x.ndim != 1:
        raise ValueError(
            f"{caller}: {first} has shape {x.shape}; it must be (T,), from one episode; use vmap for several"
        )
    check_shapes(caller, first, x.shape, others)
    return kept(mask, x.shape, caller)


def _discounts(caller: str, discount: ArrayLike, rewards: Array) -> Array:
    if np.shape(discount) not in ((), rewards.shape):
        raise ValueError(
            f"{caller}: discount has shape {np.shape(discount)}; it must be one number or {rewards.shape}, like rewards"
        )
    return jnp.broadcast_to(jnp.asarray(discount, rewards.dtype), rewards.shape)
