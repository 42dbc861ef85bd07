"""Baselines of the score function: what is subtracted from a value, and why that adds no bias.

`E[b_i * d log q(x_i)] = b_i * E[d log q(x_i)] = 0` where `b_i` does not depend on `x_i`, and only there. A baseline is

- a number, or an array of shape `(n,)` of numbers that did not see their own sample (a critic's values);
- a function of the `n` values, whose i-th output does not use the i-th value: `leave_one_out`, or a user's own;
- a `MovingAverage`, which saw earlier calls only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.errors import Unsuitable
from rgrad.tracing.independence import Independent, checked, name_of, own_value_used


def leave_one_out(values: Array) -> Array:
    """`b_i`: the mean of the values of the *other* samples of the call.

    Args:
        values: shape `(n,)`, n >= 2.

    Returns:
        Shape `(n,)`. (The plain mean would shrink the gradient by 1 - 1/n.)

    Raises:
        ValueError: n = 1.

    Source: Mnih and Rezende 2016, VIMCO; Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free".
    """
    (n,) = values.shape
    if n < 2:
        raise Unsuitable(
            f"leave_one_out: n = {n} leaves no other sample to take a mean of; ask for n >= 2, or use another baseline"
        )
    middle = values.mean()  # cancels, save that the sum is rounded less: rounding may depend on the sample's own value
    off = values - middle
    return middle + (off.sum() - off) / (n - 1)


def leave_pair_out(values: Array) -> Array:
    """`b_i`: the mean of the values of all the *other pairs* (0, 1), (2, 3), ...: leave-one-out for antithetic draws.

    Args:
        values: shape `(n,)`, n even and at least 4.

    Returns:
        Shape `(n,)`, the same for both of a pair.

    Raises:
        ValueError: n is odd, or 2.
    """
    (n,) = values.shape
    if n < 4 or n % 2:
        raise Unsuitable(f"leave_pair_out: n = {n} has no pair beside the sample's own, or an odd one out; ask for an even "
                         "n >= 4, or use a number")  # fmt: skip
    return jnp.repeat((values.sum() - values.reshape(-1, 2).sum(1)) / (n - 2), 2)


def leave_one_out_of_group(values: Array, weights: Array, mask: ArrayLike | None, groups: ArrayLike | None) -> Array:
    """The weighted mean of the *other* samples that are kept and of the same group, shape `(n,)`, as all arguments are.

    A sample that is alone in its group has no others. Where groups and mask are known when tracing that raises; where
    they are traced, its baseline is nan, so that nothing silent comes of it.

    Args:
        mask: which samples are kept; None for all.
        groups: any integers; None for one group.
    """
    n = values.size
    if not isinstance(mask, jax.core.Tracer) and not isinstance(groups, jax.core.Tracer):
        _check_none_alone(np.ones(n, bool) if mask is None else np.asarray(mask, bool), groups)
    keep = jnp.ones(n, bool) if mask is None else jnp.asarray(mask, bool)
    ids = jnp.zeros(n, int) if groups is None else jnp.unique(jnp.asarray(groups), return_inverse=True, size=n)[1]
    alone = (_sum_of_others(keep.astype(int), ids) == 0) & keep
    weight = _sum_of_others(weights, ids)
    mean = _sum_of_others(weights * values, ids) / jnp.where(weight == 0, 1.0, weight)
    return jnp.where(alone, jnp.nan, mean)


def _sum_of_others(x: Array, ids: Array) -> Array:
    """Of each element the sum of the others with the same id: of those before it and of those after it.

    The total less the element itself would be rounding only, if one element (the weight of a rare sample) is larger than all
    others by the precision of the floats.
    """
    order = jnp.argsort(ids, stable=True)
    x, ids = x[order], ids[order]
    new = ids[1:] != ids[:-1]

    def before(x: Array, new: Array) -> Array:
        """Sums that start again where `new` is set, without the last element that they have reached."""
        add = lambda a, b: (jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1])
        upto, _ = lax.associative_scan(add, (x[:-1], jnp.concatenate([jnp.zeros(1, bool), new])[:-1]))
        return jnp.concatenate([jnp.zeros(1, x.dtype), jnp.where(new, 0, upto)])

    others = before(x, new) + before(x[::-1], new[::-1])[::-1]
    return jnp.zeros_like(others).at[order].set(others)


def _check_none_alone(keep: np.ndarray, groups: ArrayLike | None) -> None:
    labels = np.zeros(keep.size, int) if groups is None else np.asarray(groups)
    names, counts = np.unique(labels[keep], return_counts=True)
    if names.size and counts.min() < 2:
        i = int(np.flatnonzero(keep & (labels == names[counts.argmin()]))[0])
        where = "" if groups is None else f" in group {labels[i]}"
        raise ValueError(
            f"leave_one_out: sample {i} is alone{where} and leaves no other to take a mean of; add samples, or mask it"
        )


class MovingAverage(NamedTuple):
    """An exponential moving average of the values of *earlier* calls, as explicit state.

        average = rgrad.moving_average(decay=0.9)
        value = rgrad.expect(f, q, key, n, partial(rgrad.score_function, baseline=average))   # read first ...
        average = average.update(value)                                                       # ... updated after

    What is stored is the raw average, which starts at 0; `value` divides by the weight that it has gathered so far, so
    that the start does not pull it to 0. (Storing the divided one would divide it again at the next update.)
    """

    total: Array
    weight: Array
    decay: Array

    @property
    def value(self) -> Array:
        """The average so far, shape `()`; 0 before the first update."""
        return jnp.where(self.weight > 0, self.total / jnp.where(self.weight > 0, self.weight, 1.0), 0.0)

    def update(self, values: ArrayLike) -> "MovingAverage":
        """The state after a call with these values (any shape; their mean counts)."""
        mean = lax.stop_gradient(jnp.mean(jnp.asarray(values)))
        keep = self.decay
        return MovingAverage(keep * self.total + (1 - keep) * mean, keep * self.weight + (1 - keep), keep)


def moving_average(decay: float = 0.9) -> MovingAverage:
    """The state of a `MovingAverage` before any call.

    Raises:
        ValueError: `decay` is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"moving_average: decay = {decay}; it must be in [0, 1), as 0.9")
    return MovingAverage(jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(float(decay)))


Baseline = ArrayLike | MovingAverage | Callable[[Array], ArrayLike] | Independent


def baseline_values(baseline: Baseline, values: Array, pairs: bool = False) -> Array:
    """What `baseline` subtracts from each of the values, shape `(n,)`; nan if it is seen in the program to use its own.

    Args:
        pairs: the samples depend on one another in pairs, both of which a function must leave out.

    Raises:
        ValueError: a function whose i-th output uses the i-th value, or an output of another shape.
    """
    name = "the number"
    if isinstance(baseline, MovingAverage):
        baseline = baseline.value
    elif isinstance(baseline, Independent):
        baseline = baseline.baseline(values) if callable(baseline.baseline) else baseline.baseline
    elif baseline is leave_one_out or baseline is leave_pair_out:
        name, baseline = name_of(baseline), baseline(values)
    elif callable(baseline):
        name, baseline = name_of(baseline), checked(baseline, values, pairs)
    if isinstance(baseline, str):
        raise TypeError(f"baseline: {baseline!r} is a name; give a number or a function, as rgrad.leave_one_out")
    b = jnp.asarray(baseline)
    if b.shape not in ((), values.shape):
        raise ValueError(f"baseline: {name} has shape {b.shape}; it must be () or {values.shape}, one for each value")
    return jnp.broadcast_to(b, values.shape)


def check_leaves_out_dependent(baseline: Any, n: int, kind: str, pairs: bool) -> None:
    """Raises where a baseline of the values is biased because the samples are drawn together (`rgrad.distributions.dependent`).

    Raises:
        ValueError: a function of the values, save one that leaves out both of a pair where `pairs`.
    """
    vouched = isinstance(baseline, MovingAverage | Independent)
    if not callable(baseline) or vouched or (pairs and n % 2):  # odd: the draw raises
        return
    name = name_of(baseline)
    if not pairs:
        raise Unsuitable(f"baseline: {name} is made of the values of a call whose samples depend on one another ({kind} "
                         "draws), and so biases the gradient; use a number or a rgrad.moving_average()")  # fmt: skip
    if baseline is not leave_pair_out and own_value_used(baseline, n, lambda i: i ^ 1):
        raise Unsuitable(f"baseline: {name} uses the other half of the pair that a sample depends on ({kind} draws), and so "
                         "biases the gradient; use rgrad.leave_pair_out, or leave the whole pair out")  # fmt: skip
