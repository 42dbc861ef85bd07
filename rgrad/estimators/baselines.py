"""Baselines of the score function: numbers that are subtracted from the values without adding bias.

A baseline `b_i` must not depend on its own sample `x_i`. Then it adds no bias:
`E[b_i * d log q(x_i)] = E[b_i] * E[d log q(x_i)] = 0`. A baseline is

- a number, or an array of shape `(n,)` whose i-th entry does not depend on the i-th sample (e.g. a critic's values);
- a function of the `n` values whose i-th output does not use the i-th value, e.g. `leave_one_out` or your own;
- a `MovingAverage`, which saw earlier calls only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.errors import Unsuitable
from rgrad.tracing.independence import Independent, checked, name_of, own_value_used


def leave_one_out(values: Array) -> Array:
    """The mean of the values of the *other* samples of the call, as the baseline of each sample.

    Args:
        values: shape `(n,)`, n >= 2.

    Returns:
        Shape `(n,)`. (With the mean of all values, the gradient would be too small by the factor 1 - 1/n.)

    Raises:
        ValueError: n = 1.

    Also known as RLOO; its gradient is that of VarGrad.

    Example:
        >>> print(rgrad.leave_one_out(jnp.array([1.0, 2.0, 6.0])))
        [4.  3.5 1.5]

    Source: Mnih and Rezende 2016, VIMCO, https://arxiv.org/abs/1602.06725; Kool et al. 2019, Buy 4 REINFORCE samples,
    get a baseline for free!, https://openreview.net/forum?id=r1lgTGL5DE; Richter et al. 2020, VarGrad,
    https://arxiv.org/abs/2010.10436.
    """
    (n,) = values.shape
    if n < 2:
        raise Unsuitable(
            f"leave_one_out: n = {n} leaves no other sample to take a mean of; ask for n >= 2, or use another baseline"
        )
    middle = values.mean()  # It cancels. It keeps the rounding error of the sum, which depends on all values, small.
    off = values - middle
    return middle + (off.sum() - off) / (n - 1)


def leave_pair_out(values: Array) -> Array:
    """The mean of the values of all *other pairs* (0, 1), (2, 3), ..., i.e. leave-one-out for antithetic draws.

    Args:
        values: shape `(n,)`, n even and at least 4.

    Returns:
        Shape `(n,)`, the same number for both samples of a pair.

    Raises:
        ValueError: n is odd, or 2.

    Example:
        >>> print(rgrad.leave_pair_out(jnp.array([1.0, 3.0, 5.0, 7.0])))
        [6. 6. 2. 2.]
    """
    (n,) = values.shape
    if n < 4 or n % 2:
        raise Unsuitable(f"leave_pair_out: n = {n} leaves no other pair, or is odd; ask for an even n >= 4, or use a number")  # fmt: skip
    return jnp.repeat(leave_one_out(values.reshape(-1, 2).mean(1)), 2)


def leave_one_out_of_group(values: Array, weights: Array, mask: ArrayLike | None, groups: ArrayLike | None) -> Array:
    """The weighted mean of the *other* kept samples of the same group. All arguments and the result have shape `(n,)`.

    A sample that is alone in its group has no others. This raises if groups and mask are not traced. If they are
    traced, its baseline is nan, so that the mistake is visible.

    Args:
        mask: which samples are kept; None means all.
        groups: any integers; None means one group.
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
    """For each element, the sum of the others with the same id: those before it plus those after it.

    One element, e.g. the weight of a rare sample, may be so much larger than all others that the total minus this
    element would be nothing but rounding error.
    """
    order = jnp.argsort(ids, stable=True)
    x, ids = x[order], ids[order]
    new = ids[1:] != ids[:-1]

    def before(x: Array, new: Array) -> Array:
        """Running sums that restart at `new`. Each leaves out its own element."""
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
            f"leave_one_out: sample {i} is alone{where}, so there is no other to take a mean of; add samples, or mask it"
        )


class MovingAverage(NamedTuple):
    """An exponential moving average of the values of *earlier* calls, as explicit state.

        average = rgrad.moving_average(decay=0.9)
        value = rgrad.expect(f, q, key, n, partial(rgrad.score_function, baseline=average))   # read first ...
        average = average.update(value)                                                       # ... updated after

    The state holds the raw average, which starts at 0. `value` divides it by the total weight so far, so that the start
    does not pull it towards 0. (If the divided value were stored, the next update would divide it again.)

    Example:
        >>> average = rgrad.moving_average(decay=0.5)
        >>> for loss in (4.0, 1.0, 1.0):
        ...     average = average.update(loss)
        >>> print(f"{average.value:.3f}")  # (1 * 4 + 2 * 1 + 4 * 1) / 7
        1.429
    """

    total: Array
    weight: Array
    decay: Array

    @property
    def value(self) -> Array:
        """The average so far, shape `()`; 0 before the first update."""
        return jnp.where(self.weight > 0, self.total / jnp.where(self.weight > 0, self.weight, 1.0), 0.0)

    def update(self, values: ArrayLike) -> MovingAverage:
        """The state after a call with these values, of any shape. Only their mean matters."""
        mean = lax.stop_gradient(jnp.mean(jnp.asarray(values)))
        keep = self.decay
        return MovingAverage(keep * self.total + (1 - keep) * mean, keep * self.weight + (1 - keep), keep)


def moving_average(decay: float = 0.9) -> MovingAverage:
    """The state of a `MovingAverage` before any call.

    Raises:
        ValueError: `decay` is not in [0, 1).

    Example:
        >>> average = rgrad.moving_average(decay=0.5).update(4.0)
        >>> print(average.value, average.update(1.0).value)  # 4, and (4 + 2) / 3
        4.0 2.0
    """
    if not 0 <= decay < 1:
        raise ValueError(f"moving_average: decay = {decay}; it must be in [0, 1), e.g. 0.9")
    return MovingAverage(jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(float(decay)))


Baseline = ArrayLike | MovingAverage | Callable[[Array], ArrayLike] | Independent


def plain(option: Any) -> Any:
    """A baseline or control variate without any `functools.partial` around it that sets no argument."""
    while isinstance(option, partial) and not option.args and not option.keywords:
        option = option.func
    if option is moving_average or option is MovingAverage:
        raise TypeError("baseline: rgrad.moving_average is not called; write baseline=rgrad.moving_average()")
    return option


def baseline_values(baseline: Baseline, values: Array, pairs: bool = False) -> Array:
    """The baseline of each value, shape `(n,)`. It is nan if it is found, at run time, to use its own value.

    Args:
        pairs: whether the samples depend on one another in pairs. A function must then leave out both of a pair.

    Raises:
        ValueError: the i-th output of a function uses the i-th value, or the output has another shape.
    """
    name, baseline = "the number", plain(baseline)
    if isinstance(baseline, MovingAverage):
        baseline = baseline.value
    elif isinstance(baseline, Independent):
        baseline = baseline.baseline(values) if callable(baseline.baseline) else baseline.baseline
    elif baseline is leave_one_out or baseline is leave_pair_out:
        name, baseline = name_of(baseline), baseline(values)
    elif callable(baseline):
        name, baseline = name_of(baseline), checked(baseline, values, pairs)
    if isinstance(baseline, str):
        raise TypeError(f"baseline: {baseline!r} is a name; give a number or a function, e.g. rgrad.leave_one_out")
    b = jnp.asarray(baseline)
    if b.shape not in ((), values.shape):
        raise ValueError(f"baseline: {name} has shape {b.shape}; it must be () or {values.shape}, one for each value")
    return jnp.broadcast_to(b, values.shape)


def check_leaves_out_dependent(baseline: Any, n: int, kind: str, pairs: bool) -> None:
    """Raises an error if a baseline of dependent draws (`rgrad.distributions.dependent`) would bias the gradient.

    Raises:
        ValueError: the baseline is a function of the values. With `pairs`, one that leaves out both of a pair is
            accepted.
    """
    baseline = plain(baseline)
    vouched = isinstance(baseline, MovingAverage | Independent)
    if not callable(baseline) or vouched or (pairs and n % 2):  # odd: the draw raises
        return
    name = name_of(baseline)
    if not pairs:
        raise Unsuitable(f"baseline: {name} is computed from the values of a call whose samples depend on one another "
                         f"({kind} draws), which biases the gradient; use a number or a rgrad.moving_average()")  # fmt: skip
    if baseline is not leave_pair_out and own_value_used(baseline, n, lambda i: i ^ 1):
        raise Unsuitable(f"baseline: {name} uses the other half of the pair that a sample depends on ({kind} draws), which "
                         "biases the gradient; use rgrad.leave_pair_out, or leave the whole pair out")  # fmt: skip
