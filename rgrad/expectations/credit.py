"""`credit`: several random variables and several costs, where not every variable has a part in every cost."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rgrad.autodiff import attach
from rgrad.estimators.surrogate import surrogate


def credit(
    costs: ArrayLike, log_probs: ArrayLike, influences: ArrayLike | None = None, baselines: ArrayLike = 0.0
) -> Array:
    """The sum of the costs, by the score function, with the score of each variable paid only what it can have caused.

        sum_c attach(cost_c, sum_{v influences c} log q_v) - sum_v (attach(b_v, log q_v) - b_v)

    A cost that a variable cannot influence adds nothing to the mean of its score term, and noise to it: it is left out.
    In a sequence that is the reward to go, `sum_{c >= v} cost_c` for the score of step v:

        def rollout(params, key):                  # one episode; vmap over keys, and take the mean
            rewards, log_probs = ...               # shape (T,) each; actions are constants (lax.stop_gradient)
            return rgrad.credit(rewards, log_probs)

    Unbiased, and so are derivatives of every order, where `influences` leaves out no cost that depends on a variable:
    through other variables too.

    Args:
        costs: shape `(C,)`, of one run; their own derivatives are kept.
        log_probs: shape `(V,)`, the log density of each variable *given those before it*, at values that are constants.
        influences: shape `(V, C)`, True where the variable has a part in the cost. None: a sequence, V = C, where it
            has one in those from its own step on.
        baselines: shape `(V,)` or one number: what is subtracted from the costs that are paid to each variable. It must
            not depend on the variable, nor on what comes of it: a critic's value of the state before it, or the mean of
            the same costs in *other* runs.

    Returns:
        A scalar, per run; its value is the sum of the costs, whatever the baselines.

    Raises:
        ValueError: shapes that do not go together.

    Source: Schulman et al. 2015, Gradient estimation using stochastic computation graphs ; Foerster et al. 2018, DiCE;
    Ranganath, Gerrish and Blei 2014, Black box variational inference (Rao-Blackwellization).
    """
    paid, log_q = jnp.asarray(costs), jnp.asarray(log_probs)
    if paid.ndim != 1 or log_q.ndim != 1:
        raise ValueError(
            f"credit: costs has shape {paid.shape} and log_probs {log_q.shape}; they must be (C,) and (V,), of one "
            "run: vmap over several"
        )
    if influences is None and paid.shape != log_q.shape:
        raise ValueError(
            f"credit: {paid.size} costs and {log_q.size} variables are no sequence; say with influences, of shape "
            f"{(log_q.size, paid.size)}, which variable has a part in which cost"
        )
    influential = jnp.tri(log_q.size, dtype=bool).T if influences is None else jnp.asarray(influences, bool)
    if influential.shape != (log_q.size, paid.size):
        raise ValueError(f"credit: influences has shape {influential.shape}; it must be {(log_q.size, paid.size)}, "
                         "variables by costs")  # fmt: skip
    if jnp.shape(baselines) not in ((), log_q.shape):
        raise ValueError(
            f"credit: baselines has shape {jnp.shape(baselines)}; it must be {log_q.shape}, one for each variable"
        )
    upstream = jnp.where(influential, log_q[:, None], 0.0).sum(0)
    return surrogate(paid, upstream).sum() - (attach(baselines, log_q) - baselines).sum()
