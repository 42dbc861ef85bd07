"""Checks that output i of a baseline does not use value i. If it does, the gradient is biased.

There are three checks, tried in this order:

1. The trace contains no path from value i to output i (`rgrad.tracing.dependence`). This is a proof, and it costs
   nothing at run time.
2. At trace time, value i is changed at test points, in 64 bits. If output i changes, the check raises.
3. At run time, value i is changed at the actual values, with whatever the function closes over. If output i changes,
   the baseline is nan, so a bias is never silent. This catches `where(step < 10, 0, values.mean())` from step 10 on.

`independent(baseline)` skips the checks: the caller declares that the baseline is correct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Literal, jaxpr_as_fun
from jax.typing import ArrayLike

from rgrad.errors import Unsuitable
from rgrad.tracing.dependence import dependence

COLUMNS = 64  # the most outputs of a baseline that are tested at trace time
MOVED = 8  # ... and at run time
NUMBERS = 6  # a baseline is tested near at most this many of the constants in its jaxpr
FOLLOWED = 512  # the largest n for which the trace is analysed

Partner = Callable[[Any], Any]


class Independent(NamedTuple):
    """A baseline whose entry i is known not to use sample i. `independent` returns it."""

    baseline: Any

    def __call__(self, values: Array) -> Any:
        return self.baseline(values)


def independent(baseline: Any) -> Independent:
    """A declaration that `baseline` does not use its own sample. It is then used without a check.

        partial(rgrad.score_function, baseline=rgrad.independent(my_baseline))
        rgrad.surrogate(values, log_prob, baseline=rgrad.independent(critic(states)))

    Use it only if output i of the function, or entry i of the array, is independent of sample i given all the others.
    If it is not, the gradient is biased without any warning. The declaration also saves time: if the trace of a
    function does not show that it is independent, the check evaluates the function several more times in every call.

    Args:
        baseline: a number, an array of shape `(n,)`, or a function of the `n` values.

    Example:
        >>> critic = jnp.array([1.0, 1.0, 2.0])  # computed from the states before the actions
        >>> terms = lambda log_q: rgrad.surrogate(jnp.array([1.0, 2.0, 6.0]), log_q, baseline=rgrad.independent(critic))
        >>> print(jax.jit(jax.grad(lambda log_q: terms(log_q).sum()))(jnp.zeros(3)))  # value - critic
        [0. 1. 4.]
    """
    return Independent(baseline)


def checked(baseline: Callable[[Array], ArrayLike], values: Array, pairs: bool = False) -> Array:
    """`baseline(values)`, shape `(n,)` or `()`. It is nan if an output changes with its own value.

    With `pairs`, it is also nan if an output changes with the other value of its pair.

    Raises:
        ValueError: an output uses its own value at the test points, or at the actual values if they are not traced.
    """
    name, partners = name_of(baseline), [_itself, *([_other] if pairs else [])]
    if all(shown_independent(baseline, values, partner) for partner in partners):
        return jnp.asarray(baseline(values))
    check_own_value_unused(baseline, values, name)
    b = jnp.asarray(baseline(values))
    moves = jnp.stack([_moves(baseline, values, partner) for partner in partners]).any()
    if not isinstance(moves, jax.core.Tracer) and moves:
        raise Unsuitable(
            f"baseline: {name} uses its own value at these values, which biases the gradient; use "
            "rgrad.leave_one_out, or leave the i-th value out of the i-th output"
        )
    return jnp.where(moves, jnp.nan, b)


def name_of(baseline: Any) -> str:
    return str(getattr(baseline, "__name__", type(baseline).__name__))


def _itself(i: Any) -> Any:
    return i


def _other(i: Any) -> Any:
    return i ^ 1


def _spread(baseline: Callable[[Array], ArrayLike], values: Any, dtype: Any = None) -> Callable[[Array], Array]:
    return lambda v: jnp.broadcast_to(jnp.asarray(baseline(v), dtype), values.shape)


def shown_independent(baseline: Callable[[Array], ArrayLike], values: Any, partner: Partner = _itself) -> bool:
    """Whether the trace shows that output i does not use value `partner(i)`, for every i."""
    (n,) = values.shape
    if n > FOLLOWED or jax.eval_shape(baseline, jax.ShapeDtypeStruct(values.shape, values.dtype)).shape not in (
        (),
        (n,),
    ):
        return False
    own, places = np.arange(n), partner(np.arange(n))
    return not dependence(_spread(baseline, values), values, places)[own, own].any()


def check_own_value_unused(baseline: Callable[[Array], ArrayLike], values: Array, name: str) -> None:
    """Raises an error if output i changes with value i at test points, at trace time.

    It works inside any JAX transformation. The test uses finite steps, small and large. They reveal what the diagonal
    of the Jacobian would reveal, and also what has no derivative: a `stop_gradient`, a rank, a threshold. At most
    `COLUMNS` outputs are tested. If n > 8, a call with eight values is tested too, if the function accepts it.
    """
    (n,) = values.shape
    for size in {n, min(n, 8)}:
        try:
            found = own_value_used(baseline, size)
        except Exception:  # it accepts only n values, or no 64-bit floats; it is tested at run time
            continue
        if found is not None:
            i, before, after = found
            raise Unsuitable(
                f"baseline: output {i} of {name} uses value {i} itself (changing that value moves the output from "
                f"{before:.3g} to {after:.3g}), which biases the gradient (the plain mean shrinks it by 1 - 1/n); "
                "use rgrad.leave_one_out, or leave the i-th value out of the i-th output"
            )


def own_value_used(
    baseline: Callable[[Array], ArrayLike], n: int, partner: Partner = _itself
) -> tuple[int, float, float] | None:
    """The first i whose output changes with value `partner(i)`, and the output before and after. None if there is none.

    The test points lie near 0 and near the constants in the jaxpr, e.g. the bounds of a clip. Traced values that the
    function closes over, e.g. a flag or a loop counter, are replaced by numbers on both sides of each constant.
    """
    rng = np.random.default_rng(0)
    places = np.unique(np.linspace(0, n - 1, min(n, max(4, min(COLUMNS, 2**18 // n)))).round().astype(int))
    rows, normal = np.arange(len(places)), rng.normal(size=n)
    # In 64 bits, to tell a change from rounding.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        traced = jax.make_jaxpr(_spread(baseline, normal, float))(jax.ShapeDtypeStruct((n,), float))
        numbers = sorted(_numbers(traced.jaxpr))[:NUMBERS]
        run = jax.jit(lambda consts, v: lax.map(lambda v: jaxpr_as_fun(traced.replace(consts=consts))(v)[0], v))
        points = [(normal, (-1e3, -1.0, 0.3, 2.0, 1e3)), (np.abs(normal) + 0.1, (0.01, 0.7, 3.0, 1e3))]
        points += [(c + size * normal, tuple(c + size * np.array([-8.0, -0.9, 0.3, 2.0, 8.0])))
                   for c in numbers for size in [max(1.0, abs(c)) / 10]]  # fmt: skip
        sides = (
            [None, *(c + side for c in numbers for side in (-1, 0, 1))]
            if any(map(_is_traced, traced.consts))
            else [None]
        )
        for side in sides:
            consts = [_stand_in(c, side, rng) for c in traced.consts]
            for point, moves in points[: None if side is None else 2]:
                moved = np.tile(point, (len(places), len(moves), 1))
                moved[rows, :, partner(places)] = moves
                found = np.asarray(run(consts, jnp.asarray(np.concatenate([point[None], moved.reshape(-1, n)]))))
                before, own = found[0], found[1:].reshape(moved.shape)[rows, :, places]
                scale = np.nanmax(np.abs(before), initial=0.0, where=np.isfinite(before)) + 1e-3
                # A nan at a test point shows nothing: it may come from the logarithm of a negative value, or from an
                # overflow.
                with np.errstate(invalid="ignore"):
                    used = np.abs(own - before[places][:, None]) > 1e-6 * scale
                if used.any():
                    row, move = np.argwhere(used)[0]
                    return int(places[row]), float(before[places[row]]), float(own[row, move])
    return None


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _stand_in(constant: Any, side: float | None, rng: np.random.Generator) -> Any:
    """A known value in place of a traced one that a function closes over."""
    if not _is_traced(constant):
        return constant
    if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), constant.shape)
    if constant.dtype == bool:
        return jnp.full(constant.shape, side is None or side % 2 == 0)
    if jnp.issubdtype(constant.dtype, jnp.floating) and (side is None or constant.shape):
        return jnp.asarray(rng.normal(size=constant.shape), constant.dtype)
    return jnp.full(constant.shape, 1 if side is None else side, constant.dtype)


def _numbers(jaxpr: Any) -> set[float]:
    """The scalar constants in a jaxpr whose absolute value is above 1 and below 1e12."""
    found = set()
    for eqn in jaxpr.eqns:
        for v in eqn.invars:
            if isinstance(v, Literal) and np.ndim(v.val) == 0 and np.asarray(v.val).dtype.kind in "fiu":
                found |= {float(v.val)}
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            found |= _numbers(inner) if hasattr(inner, "eqns") else set()
    return {c for c in found if np.isfinite(c) and 1 < abs(c) < 1e12}


def _moves(baseline: Callable[[Array], ArrayLike], values: Array, partner: Partner) -> Array:
    """Whether an output changes with its own value, at the actual values: a bool of shape `()`.

    Value i is changed by about the spread of the values. If output i does not use it, output i changes only by
    rounding, and other outputs change by more. So a change counts if it exceeds rounding and 5 % of the largest change.
    """
    (n,) = values.shape
    traced = jax.make_jaxpr(_spread(baseline, values))(jax.ShapeDtypeStruct(values.shape, values.dtype))
    # No derivative passes through the check, whatever the function closes over.
    held = traced.replace(consts=[_constant(c) for c in traced.consts])
    at = lambda v: jaxpr_as_fun(held)(v)[0]
    v = lax.stop_gradient(values)
    places = np.unique(np.linspace(0, n - 1, min(n, MOVED)).round().astype(int))
    spread = jnp.abs(v - v.mean()).max()
    spread = jnp.where(spread > 0, spread, jnp.abs(v).max() + 1)
    steps = jnp.asarray([1.3, -0.7, 0.05], v.dtype) * spread
    moved = jnp.tile(v, (len(places), len(steps), 1))
    moved = moved.at[np.arange(len(places)), :, partner(places)].add(steps)
    before = at(v)
    try:
        many = jax.vmap(at)
        many(v[None])
    except NotImplementedError:  # e.g. a callback
        many = lambda v: lax.map(at, v)
    after = many(moved.reshape(-1, n)).reshape(moved.shape)
    change = jnp.abs(after - before)
    change = jnp.where(jnp.isfinite(change), change, 0.0)
    own = change[np.arange(len(places)), :, places]
    # How much the outputs change with a few units in the last place of the values. Cancellation can amplify rounding.
    eps = jnp.finfo(v.dtype).eps
    nudged = jnp.abs(
        many(v * (1 + eps * np.where(np.arange(n) % 3 == 0, [[2.0], [-2.0]], [[-2.0], [4.0]]).astype(v.dtype))) - before
    )
    rounding = (
        20 * jnp.where(jnp.isfinite(nudged), nudged, 0.0).max()
        + 64 * eps * jnp.abs(jnp.where(jnp.isfinite(before), before, 0.0)).max()
    )
    return ((own > 0.05 * change.max(-1)) & (own > rounding)).any()


def _constant(x: Any) -> Any:
    return lax.stop_gradient(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x
