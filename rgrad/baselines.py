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
from jax.extend.core import jaxpr_as_fun
from jax.typing import ArrayLike

PROBES = 64  # columns of the Jacobian that are looked at: all of them up to this n


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
        raise ValueError(
            f"leave_one_out: n = {n} leaves no other sample to take a mean of; ask for n >= 2, or use another baseline"
        )
    return (values.sum() - values) / (n - 1)


def leave_one_out_of_group(values: Array, weights: Array, keep: Array, groups: ArrayLike | None) -> Array:
    """The weighted mean of the *other* samples that are kept and of the same group, shape `(n,)`, as all arguments are.

    A sample that is alone in its group has no others. Where the groups are known when tracing that raises; where they
    are traced, its baseline is nan, so that nothing silent comes of it.
    """
    n = values.size
    ids = jnp.zeros(n, int) if groups is None else jnp.unique(jnp.asarray(groups), return_inverse=True, size=n)[1]
    others = lambda x: jax.ops.segment_sum(x, ids, n)[ids] - x
    alone = (others(keep.astype(int)) == 0) & keep
    if not isinstance(alone, jax.core.Tracer) and alone.any():
        i = int(jnp.argmax(alone))
        where = "" if groups is None else f" in group {np.asarray(groups)[i]}"
        raise ValueError(
            f"leave_one_out: sample {i} is alone{where} and leaves no other to take a mean of; add samples, or mask it"
        )
    weight = others(weights)
    mean = others(weights * values) / jnp.where(weight == 0, 1.0, weight)
    return jnp.where(alone, jnp.nan, mean)


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


Baseline = ArrayLike | MovingAverage | Callable[[Array], ArrayLike]


def baseline_values(baseline: Baseline, values: Array) -> Array:
    """What `baseline` subtracts from each of the values, shape `(n,)`.

    Raises:
        ValueError: a function whose i-th output uses the i-th value, or an output of another shape.
    """
    if isinstance(baseline, MovingAverage):
        baseline = baseline.value
    if callable(baseline):
        name = getattr(baseline, "__name__", type(baseline).__name__)
        if baseline is not leave_one_out:
            _check_own_value_unused(baseline, values, name)
        baseline = baseline(values)
    else:
        name = "the number"
    b = jnp.asarray(baseline)
    if b.shape not in ((), values.shape):
        raise ValueError(f"baseline: {name} has shape {b.shape}; it must be () or {values.shape}, one for each value")
    return jnp.broadcast_to(b, values.shape)


def _check_own_value_unused(baseline: Callable[[Array], ArrayLike], values: Array, name: str) -> None:
    """Raises where the diagonal of the Jacobian of `baseline` is not zero, at random values.

    The Jacobian is taken of the traced function, with ones for what it closes over, so that it can be computed while an
    outer function is being traced. Up to `PROBES` columns are looked at.
    """
    (n,) = values.shape
    spread = lambda v: jnp.broadcast_to(jnp.asarray(baseline(v), v.dtype), v.shape)
    traced = jax.make_jaxpr(spread)(jax.ShapeDtypeStruct(values.shape, values.dtype))
    traced = traced.replace(consts=[np.ones(np.shape(c), c.dtype) for c in traced.consts])
    columns = np.unique(np.linspace(0, n - 1, min(n, PROBES)).round().astype(int))
    with jax.ensure_compile_time_eval():
        point = np.random.default_rng(0).normal(size=n).astype(values.dtype)

        def column(i: Any) -> tuple[Array, Array]:
            (d,) = jax.jvp(lambda v: jaxpr_as_fun(traced)(v)[0], (point,), (jax.nn.one_hot(i, n, dtype=point.dtype),))[
                1:
            ]
            return d[i], jnp.abs(d).max()

        own, largest = (np.asarray(x) for x in jax.vmap(column)(columns))
    wrong = np.flatnonzero(~(np.abs(own) <= 1e-4 * largest))
    if wrong.size:
        i = int(columns[wrong[0]])
        raise ValueError(
            f"baseline: output {i} of {name} uses value {i} itself (derivative {own[wrong[0]]:.3g}), so it is not "
            "independent of its own sample and biases the gradient (the plain mean shrinks it by 1 - 1/n); use "
            "rgrad.leave_one_out, or leave the i-th value out of the i-th output"
        )
