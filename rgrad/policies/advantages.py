"""`group_advantages`: rewards compared within groups, as in RLOO, GRPO and Dr. GRPO."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.policies.checks import as_floats, check_no_nan, check_shapes, kept, known

CALLER = "group_advantages"
BASELINES = ("leave_one_out", "mean", None)
SCALES = (None, "std")


def group_advantages(
    rewards: ArrayLike,
    groups: ArrayLike,
    baseline: Literal["leave_one_out", "mean"] | None = "leave_one_out",
    scale: Literal["std"] | None = None,
    ddof: int = 1,
    eps: float = 0.0,
    mask: ArrayLike | None = None,
) -> Array:
    """How much better each sample is than the others of its group, e.g. than the other answers to the same question.

        A_i = (r_i - b_i) / (std(r of the group) + eps)        without the division if scale is None

    Use them as the values of the score function. This is the gradient of RLOO, to ascend:

        advantages = rgrad.group_advantages(rewards, groups)
        jax.grad(lambda theta: rgrad.surrogate(advantages, log_prob(theta)).mean())

    With k samples in each group, s their standard deviation, and g the gradient of the expected reward:

    | name | baseline | scale | mean of the estimate |
    |---|---|---|---|
    | RLOO | `"leave_one_out"`, the mean of the *others* | None | g: unbiased |
    | Dr. GRPO | `"mean"` of the group | None | (1 - 1/k) g: the sample is part of its own baseline |
    | GRPO | `"mean"` of the group | `"std"` | **biased**: each question has a factor of its own |

    RLOO is exactly k / (k - 1) times Dr. GRPO, sample by sample. So these two differ only by a learning rate, if all
    groups have the same size.

    The factor of GRPO for rewards of 0 and 1 with success rate p is `E[s] / (p (1 - p))`, s with `ddof=0`; with `ddof=1`
    it is smaller by sqrt(1 - 1/k). For k = 4 and `ddof=1`, it is 1.496 at p = 0.01, 1.464 at 0.1 and 0.9, and 1.400 at 0.5.
    It tends to sqrt(k - 1) for rare successes (`ddof=0`), and to 1 / sqrt(p (1 - p)) for large k: 10 at p = 0.01. So with
    large groups, questions that are almost always or almost never solved get more weight than in the gradient of the
    success rate. For normal rewards with standard deviation sigma, the factor is 0.691 / sigma (k = 4, `ddof=1`). For
    other rewards, the direction of each question's gradient may change too.

    A group with equal rewards gets advantages of exactly 0, also if eps is 0, and also if its mean has a rounding error.
    Such a group says nothing about which sample to prefer. It still counts in the mean over all samples.

    Args:
        rewards: shape `(n,)`, one for each sample.
        groups: shape `(n,)`, integers. Samples of one group share a distribution. All groups have the same size, of at
            least two; or use `mask`.
        baseline: what is subtracted. None subtracts nothing.
        scale: `"std"` divides by the standard deviation of the group.
        ddof: 1 divides the sum of squares by k - 1, as `torch.std` does; 0 divides it by k, as `numpy.std` does.
        eps: is added to the standard deviation. Many programs use 1e-4 or 1e-6.
        mask: shape `(n,)`, False for padding, which gets an advantage of exactly 0, whatever its reward (even nan). With a
            mask, groups may keep different numbers of samples, or none. Pass the same mask to `rgrad.surrogate`.

    Returns:
        Shape `(n,)`, constants: no derivative flows through them. With traced arguments, which cannot raise, the
        advantages of a group with a single sample or with a nan are nan, and all are nan if nothing is kept.

    Raises:
        ValueError: a group has a single sample, groups have different sizes without a mask, nothing is kept, a reward is
            nan, shapes differ, or an option is unknown.

    Example:
        >>> rewards = jnp.array([1.0, 0.0, 0.0, 5.0, 5.0, 5.0])
        >>> print(rgrad.group_advantages(rewards, jnp.array([0, 0, 0, 1, 1, 1])).round(3))  # equal rewards prefer nothing
        [ 1.  -0.5 -0.5  0.   0.   0. ]

    Source: Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for free!,
    https://openreview.net/forum?id=r1lgTGL5DE; Ahmadian et al. 2024, Back to basics (RLOO),
    https://arxiv.org/abs/2402.14740; Shao et al. 2024, DeepSeekMath (GRPO), https://arxiv.org/abs/2402.03300; Liu et al.
    2025, Understanding R1-Zero-like training (Dr. GRPO), https://arxiv.org/abs/2503.20783.
    """
    r = as_floats(rewards)
    if r.ndim != 1:
        raise ValueError(f"{CALLER}: rewards has shape {r.shape}; it must be (n,), one for each sample")
    check_shapes(CALLER, "rewards", r.shape, {"groups": groups, "mask": mask})
    _check_options(baseline, scale, ddof, eps)
    keep = kept(mask, r.shape, CALLER)
    check_no_nan(CALLER, "rewards", rewards, mask)
    if known(groups, mask):
        _check_sizes(np.asarray(groups), mask)

    r = lax.stop_gradient(jnp.where(keep, r, 0.0))
    ids = _numbered(groups)
    total = lambda x: jnp.zeros_like(x).at[ids].add(x)[ids]  # of the group of each sample
    k = total(keep.astype(r.dtype))
    mean = lambda x: total(jnp.where(keep, x, 0.0)) / jnp.maximum(k, 1.0)
    largest = jnp.full_like(r, -jnp.inf).at[ids].max(jnp.where(keep, r, -jnp.inf))[ids]
    off = jnp.where(keep, r - largest, 0.0)  # exactly 0 for equal rewards. Their mean may have a rounding error
    off = off - mean(off)

    if baseline is None:
        advantages = r
    elif baseline == "mean":
        advantages = off
    else:
        advantages = off * (k / jnp.maximum(k - 1, 1.0))  # r minus the mean of the others
    if scale is not None:
        spread = jnp.sqrt(total(jnp.where(keep, off**2, 0.0)) / jnp.maximum(k - ddof, 1.0)) + eps
        advantages = jnp.where(spread == 0, 0.0, advantages / jnp.where(spread == 0, 1.0, spread))
    advantages = jnp.where(k < 2, jnp.nan, advantages)
    return jnp.where(keep, advantages, jnp.where(keep.any(), 0.0, jnp.nan))


def _numbered(groups: ArrayLike) -> ArrayLike:
    """The groups as numbers from 0 on. Known ones are numbered here, because sorting takes long to compile."""
    if known(groups):
        return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    traced = jnp.asarray(groups)
    return jnp.unique(traced, return_inverse=True, size=traced.size)[1].reshape(-1)


def _check_options(baseline: object, scale: object, ddof: int, eps: float) -> None:
    for name, value, allowed in (("baseline", baseline, BASELINES), ("scale", scale, SCALES)):
        if value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise ValueError(f"{CALLER}: {name} = {value!r} is unknown; it must be one of {choices}")
    if ddof not in (0, 1):
        raise ValueError(f"{CALLER}: ddof = {ddof!r}; it must be 0 (divide by k) or 1 (divide by k - 1)")
    if known(eps) and not eps >= 0:
        raise ValueError(f"{CALLER}: eps = {eps}; it is added to a standard deviation, so it must be at least 0")


def _check_sizes(groups: np.ndarray, mask: ArrayLike | None) -> None:
    """Raises ValueError if a group keeps a single sample, or groups differ in size and there is no mask that says why."""
    keep = np.ones(groups.shape, bool) if mask is None else np.asarray(mask, bool)
    names, sizes = np.unique(groups[keep], return_counts=True)
    if sizes.min() == 1:
        i = int(np.flatnonzero(keep & (groups == names[sizes.argmin()]))[0])
        raise ValueError(
            f"{CALLER}: sample {i} is alone in group {groups[i]}, so there is no other to compare it with; draw at least "
            "two samples for each group, or leave it out with mask="
        )
    if mask is None and sizes.min() < sizes.max():
        raise ValueError(
            f"{CALLER}: group {names[sizes.argmin()]} has {sizes.min()} samples and group {names[sizes.argmax()]} has "
            f"{sizes.max()}, so they would not count equally in a mean over samples; draw equally many, or pad the small "
            "groups and give mask="
        )
