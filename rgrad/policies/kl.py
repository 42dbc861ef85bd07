"""`kl_penalty`: three estimates of the divergence of a policy from a reference, at samples of the policy."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.policies.checks import as_floats, check_no_nan, check_shapes, kept, known

CALLER = "kl_penalty"
KINDS = ("k1", "k2", "k3")
NEAR = 0.3  # of d = 0, where `expm1(d) - d` cancels
SERIES = [1 / math.factorial(i + 2) for i in range(12)][::-1]  # of (exp(d) - 1 - d) / d^2, to 64 bits


def kl_penalty(
    log_p: ArrayLike,
    log_ref: ArrayLike,
    kind: Literal["k1", "k2", "k3"] = "k1",
    mask: ArrayLike | None = None,
    discrete: bool = True,
) -> Array:
    """An estimate of KL(p || ref) for each sample of p, as is used to keep a policy p near a reference.

        d = log_p - log_ref        k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d

    Which one to use depends on whether it is a *reward* (a constant, subtracted from the reward of its sample) or a *loss*
    (its derivative at fixed samples is added to the gradient). On average over samples x of p:

    | | value | gradient as a loss | gradient in the reward |
    |---|---|---|---|
    | k1 | KL(p, ref), unbiased | **0: it has no effect** | that of KL(p, ref): right |
    | k2 | E[d^2] / 2: biased, by O(d^3) | that of KL(p, ref): right | another one: that of E[d^2] / 2 minus that of KL(p, ref) |
    | k3 | KL(p, ref), unbiased, never negative | that of **KL(ref, p)**, the other direction | another one: that of KL(p, ref) minus that of KL(ref, p) |

    For example, p = Bernoulli with logit 0.8 and ref with probability 0.3: as losses, the gradients for the logit are 0,
    0.35237 and 0.38997. Those of KL(p, ref) and KL(ref, p) are 0.35237 and 0.38997.

        rewards = rewards - beta * rgrad.kl_penalty(log_p, log_ref, "k1")       # in the reward: then advantages, constants
        loss = policy_loss + beta * rgrad.kl_penalty(log_p, log_ref, "k2").mean()               # as a loss

    If x is a sequence of tokens, this holds for the log probabilities of whole sequences. The sum over tokens of k1 is
    the k1 of the sequence. The sum over tokens of k2 (or k3) as a loss is not: it leaves out that a token changes which
    tokens follow. Its gradient is that of the sum of the divergences of the tokens at *fixed* prefixes. All of this needs
    samples of p itself: weigh those of an older policy with `p / p_old`.

    Args:
        log_p: any shape, the log probability of each sample under p, differentiable in the parameters. The samples must
            be constants.
        log_ref: the same shape, under the reference.
        kind: `"k1"`, `"k2"` or `"k3"`.
        mask: the same shape, False for padding, which gets exactly 0, whatever is there (even nan).
        discrete: False for log densities, which may be positive. Those of discrete samples may not.

    Returns:
        The same shape. Its derivative is that of the formula. With traced arguments, which cannot raise, a positive log
        probability gives nan.

    Raises:
        ValueError: shapes differ, `kind` is unknown, nothing is kept, an entry is nan, or the log probability of a
            discrete sample is positive.

    Example:
        >>> log_p, log_ref = jnp.log(0.5), jnp.log(0.25)
        >>> print([f"{rgrad.kl_penalty(log_p, log_ref, kind):.4f}" for kind in ("k1", "k2", "k3")])
        ['0.6931', '0.2402', '0.1931']

    Source: Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html (values; the gradients
    follow from E[d log p] = 0); Tang and Munos 2025, On a few pitfalls in KL divergence gradient estimation for RL,
    https://arxiv.org/abs/2506.09477.
    """
    if kind not in KINDS:
        raise ValueError(f"{CALLER}: kind = {kind!r} is unknown; it must be one of {', '.join(map(repr, KINDS))}")
    p, ref = as_floats(log_p), as_floats(log_ref)
    check_shapes(CALLER, "log_p", p.shape, {"log_ref": log_ref, "mask": mask})
    keep = kept(mask, p.shape, CALLER)
    for name, x, given in (("log_p", p, log_p), ("log_ref", ref, log_ref)):
        check_no_nan(CALLER, name, given, mask)
        if discrete and known(given, mask):
            _check_not_positive(name, np.asarray(given), mask, _rounding(x.dtype))

    d = jnp.where(keep, p, 0.0) - jnp.where(keep, ref, 0.0)
    if kind == "k1":
        penalty = d
    elif kind == "k2":
        penalty = d**2 / 2
    else:
        near = jnp.abs(d) < NEAR
        inner, outer = jnp.where(near, -d, 0.0), jnp.where(near, 1.0, -d)
        series = jnp.polyval(jnp.asarray(SERIES, d.dtype), inner) * inner**2
        penalty = jnp.where(near, series, jnp.expm1(outer) - outer)
    if discrete:
        bad = keep & ((p > _rounding(p.dtype)) | (ref > _rounding(ref.dtype)))
        penalty = penalty + jnp.where(bad, jnp.nan, 0.0)
    return jnp.where(keep, penalty, 0.0)


def _rounding(dtype: jnp.dtype) -> float:
    """How far above 0 the rounding of normalised log probabilities may put them."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def _check_not_positive(name: str, x: np.ndarray, mask: ArrayLike | None, limit: float) -> None:
    bad = (x > limit) & (True if mask is None else np.asarray(mask, bool))
    if bad.any():
        place = ", ".join(str(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{CALLER}: {name}[{place}] = {float(x[bad][0]):.4g} is positive, so it is not the log probability of a discrete "
            "sample; normalise it (jax.nn.log_softmax), or give discrete=False if it is a log density"
        )
