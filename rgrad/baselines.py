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

COLUMNS = 64  # how many places a user's baseline is looked at: all of them up to this n


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
        raise ValueError(f"leave_pair_out: n = {n} has no pair beside the sample's own, or an odd one out; ask for an even "
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
    if isinstance(baseline, str):
        raise TypeError(f"baseline: {baseline!r} is a name; give a number or a function, as rgrad.leave_one_out")
    b = jnp.asarray(baseline)
    if b.shape not in ((), values.shape):
        raise ValueError(f"baseline: {name} has shape {b.shape}; it must be () or {values.shape}, one for each value")
    return jnp.broadcast_to(b, values.shape)


def check_leaves_out_dependent(baseline: Any, n: int, kind: str, pairs: bool) -> None:
    """Raises where a baseline of the values is biased because the samples are drawn together (`rgrad.dependent`).

    Raises:
        ValueError: a function of the values, save one that leaves out both of a pair where `pairs`.
    """
    if not callable(baseline) or isinstance(baseline, MovingAverage) or (pairs and n % 2):  # odd: the draw raises
        return
    name = getattr(baseline, "__name__", type(baseline).__name__)
    if not pairs:
        raise ValueError(f"baseline: {name} is made of the values of a call whose samples depend on one another ({kind} "
                         "draws), and so biases the gradient; use a number or a rgrad.moving_average()")  # fmt: skip
    if baseline is not leave_pair_out and _own_value_used(baseline, n, lambda i: i ^ 1):
        raise ValueError(f"baseline: {name} uses the other half of the pair that a sample depends on ({kind} draws), and so "
                         "biases the gradient; use rgrad.leave_pair_out, or leave the whole pair out")  # fmt: skip


def _check_own_value_unused(baseline: Callable[[Array], ArrayLike], values: Array, name: str) -> None:
    """Raises where output i moves with value i, at known points, whatever is being traced outside.

    Finite moves, small and large, see what the diagonal of the Jacobian sees and also what has no derivative: a
    `stop_gradient`, a rank, a threshold. At up to `COLUMNS` places i; where there are more values than that, a call of
    eight is looked at too, if the function takes it.
    """
    (n,) = values.shape
    for size in {n, min(n, 8)}:
        try:
            found = _own_value_used(baseline, size)
        except Exception:
            if size == n:
                raise
            continue  # a function made for n values alone
        if found is not None:
            i, before, after = found
            raise ValueError(
                f"baseline: output {i} of {name} uses value {i} itself (it moves from {before:.3g} to {after:.3g} with it), so "
                "it is not independent of its own sample and biases the gradient (the plain mean shrinks it by 1 - 1/n); "
                "use rgrad.leave_one_out, or leave the i-th value out of the i-th output"
            )


def _own_value_used(
    baseline: Callable[[Array], ArrayLike], n: int, partner: Callable[[np.ndarray], np.ndarray] = lambda i: i
) -> tuple[int, float, float] | None:
    """The first place i whose output moves with value `partner(i)`, the output before and after; None where none does."""
    rng = np.random.default_rng(0)
    places = np.unique(np.linspace(0, n - 1, min(n, max(4, min(COLUMNS, 2**18 // n)))).round().astype(int))
    normal = rng.normal(size=n)
    # In 64 bits, so that what moves can be told from what is rounded.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        spread = lambda v: jnp.broadcast_to(jnp.asarray(baseline(v), float), v.shape)
        known = _with_known_constants(spread, n, rng)
        for point, moves in ((normal, (-1e3, -1.0, 0.3, 2.0, 1e3)), (np.abs(normal) + 0.1, (0.01, 0.7, 3.0, 1e3))):
            before = np.asarray(known(jnp.asarray(point)))
            moved = np.tile(point, (len(places), len(moves), 1))
            moved[np.arange(len(places)), :, partner(places)] = moves
            after = np.asarray(jax.lax.map(known, jnp.asarray(moved.reshape(-1, n)))).reshape(moved.shape)
            own = after[np.arange(len(places)), :, places]
            scale = np.nanmax(np.abs(before), initial=0.0, where=np.isfinite(before)) + 1e-3
            # What is nan there says nothing: a logarithm of a negative value, an overflow.
            with np.errstate(invalid="ignore"):
                used = np.abs(own - before[places][:, None]) > 1e-6 * scale
            if used.any():
                row, move = np.argwhere(used)[0]
                return int(places[row]), float(before[places[row]]), float(own[row, move])
    return None


def _with_known_constants(
    function: Callable[[Array], Array], n: int, rng: np.random.Generator
) -> Callable[[Array], Array]:
    """`function`, with random numbers for what it closes over that is being traced, so that it can be computed now."""
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((n,), float))

    def stand_in(constant: Any) -> Any:
        if not isinstance(constant, jax.core.Tracer):
            return constant
        if jnp.issubdtype(constant.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=constant.shape), constant.dtype)
        if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), constant.shape)
        return jnp.ones(constant.shape, constant.dtype)

    known = traced.replace(consts=[stand_in(c) for c in traced.consts])
    return lambda v: jaxpr_as_fun(known)(v)[0]
