"""`credit`: several random variables and several costs, when not every variable influences every cost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.autodiff import attach
from rgrad.estimators.surrogate import surrogate


def credit(
    costs: ArrayLike,
    log_probs: ArrayLike,
    influences: ArrayLike | None = None,
    baselines: ArrayLike = 0.0,
    mask: ArrayLike | None = None,
) -> Array:
    """The sum of the costs, by the score function: each variable is charged only for the costs that it can influence.

        sum_c attach(cost_c, sum_{v influences c} log q_v) - sum_v (attach(b_v, log q_v) - b_v)

    A cost that a variable cannot influence contributes nothing to the mean of the variable's score term, only noise. It
    is left out. In a sequence this gives the reward to go: the score of step v is multiplied by `sum_{c >= v} cost_c`.

        def rollout(params, key):                  # one episode; vmap over keys, and take the mean
            rewards, log_probs = ...               # shape (T,) each; actions are constants (lax.stop_gradient)
            return rgrad.credit(rewards, log_probs)

    Unbiased if `influences` includes every cost that depends on a variable, directly or through other variables. Then
    derivatives of every order are unbiased too.

    Args:
        costs: shape `(C,)`, from one run. Their own derivatives are kept.
        log_probs: shape `(V,)`, the log density of each variable *given those before it*. The values of the variables
            must be constants.
        influences: shape `(V, C)`, True if the variable influences the cost. None: a sequence (V = C), in which a
            variable influences the costs from its own step on.
        baselines: shape `(V,)` or one number, subtracted from the costs that each variable is charged for. A baseline
            must not depend on its variable or on anything the variable influences. Examples are a critic's value of the
            state before it, and the mean of the same costs in *other* runs.
        mask: shape `(V,)`, for a sequence: False for padding. Masked steps add exactly 0 to the value and to the
            gradient, whatever their costs, log densities and baselines are (even nan). What these are *computed* from must
            be finite, or the chain rule outside this function gives 0 * nan. In a batch of episodes of different
            lengths, the mask is `step < length`. With `influences`, make the entries of what is left out False instead.

    Returns:
        A scalar, per run. Its value is the sum of the costs, whatever the baselines. It is 0 if everything is masked in a
        traced mask (an episode that fills up a batch).

    Raises:
        ValueError: the shapes do not match, nothing is kept, or there are both a mask and influences.

    Example:
        >>> costs = jnp.array([1.0, 2.0, 4.0])
        >>> loss = lambda log_probs: rgrad.credit(costs, log_probs)
        >>> print(jax.jit(jax.grad(loss))(jnp.zeros(3)))  # the costs from each step on
        [7. 6. 4.]

    Source: Schulman et al. 2015, Gradient estimation using stochastic computation graphs,
    https://arxiv.org/abs/1506.05254; Foerster et al. 2018, DiCE, https://arxiv.org/abs/1802.05098; Ranganath, Gerrish
    and Blei 2014, Black box variational inference (Rao-Blackwellization), https://arxiv.org/abs/1401.0118.
    """
    paid, log_q = jnp.asarray(costs), jnp.asarray(log_probs)
    if paid.ndim != 1 or log_q.ndim != 1:
        raise ValueError(
            f"credit: costs has shape {paid.shape} and log_probs {log_q.shape}; they must be (C,) and (V,), from one "
            "run; use vmap for several runs"
        )
    if influences is None and paid.shape != log_q.shape:
        raise ValueError(
            f"credit: {paid.size} costs and {log_q.size} variables do not form a sequence; pass influences, of shape "
            f"{(log_q.size, paid.size)}, to say which variable influences which cost"
        )
    if mask is not None:
        paid, log_q, baselines = _without_padding(paid, log_q, influences, baselines, mask)
    influential = jnp.tri(log_q.size, dtype=bool).T if influences is None else jnp.asarray(influences, bool)
    if influential.shape != (log_q.size, paid.size):
        raise ValueError(
            f"credit: influences has shape {influential.shape}; it must be {(log_q.size, paid.size)}, variables by costs"
        )
    if jnp.shape(baselines) not in ((), log_q.shape):
        raise ValueError(
            f"credit: baselines has shape {jnp.shape(baselines)}; it must be {log_q.shape}, one for each variable"
        )
    upstream = jnp.where(influential, log_q[:, None], 0.0).sum(0)
    return surrogate(paid, upstream).sum() - (attach(baselines, log_q) - baselines).sum()


def _without_padding(
    costs: Array, log_probs: Array, influences: ArrayLike | None, baselines: ArrayLike, mask: ArrayLike
) -> tuple[Array, Array, Array]:
    """The costs, log densities and baselines with 0 for what is masked, before any arithmetic: padding may be nan."""
    if influences is not None:
        raise ValueError(
            "credit: mask is for sequences, and influences are given; make the entries of influences False for what is "
            "left out, and its costs 0"
        )
    if jnp.shape(mask) != log_probs.shape:
        raise ValueError(f"credit: mask has shape {jnp.shape(mask)}; it must be {log_probs.shape}, like log_probs")
    if not isinstance(mask, jax.core.Tracer) and not np.any(np.asarray(mask)):
        raise ValueError("credit: mask is False everywhere, so nothing is left; it must be True for the steps to keep")
    keep = jnp.asarray(mask, bool)
    return jnp.where(keep, costs, 0), jnp.where(keep, log_probs, 0.0), jnp.where(keep, baselines, 0.0)
