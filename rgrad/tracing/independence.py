"""Does output i of a baseline use value i? If it does the gradient is biased, so that must be shown not to be.

In this order:

1. The trace: no path from value i to output i (`rgrad.tracing.dependence`). This is a proof, and costs nothing in the program.
2. Else, when tracing, at known points in 64 bits: value i is moved, and output i must not move. Raises if it does.
3. Else, in the program, at the actual values and with whatever the function closes over: the same. The baseline is nan if
   output i moves there, so that nothing biased is silent (e.g. `where(step < 10, 0, values.mean())` from step 10 on).

`independent(baseline)` says that the caller knows it, and nothing is checked.
"""

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

COLUMNS = 64  # how many places a user's baseline is looked at when tracing: all of them up to this n
MOVED = 8  # ... and in the program
NUMBERS = 6  # how many of the numbers in its program it is looked at
FOLLOWED = 512  # up to this n the trace is followed from every value

Partner = Callable[[Any], Any]


class Independent(NamedTuple):
    """A baseline whose i-th number is known not to use the i-th sample: what `independent` returns."""

    baseline: Any

    def __call__(self, values: Array) -> Any:
        return self.baseline(values)


def independent(baseline: Any) -> Independent:
    """Vouches that `baseline` does not use its own sample, so that it is taken without a check.

        partial(rgrad.score_function, baseline=rgrad.independent(my_baseline))
        rgrad.surrogate(values, log_prob, baseline=rgrad.independent(critic(states)))

    Only if output i of a function, or entry i of an array, is independent of sample i given all the others: if it is not, the
    gradient is biased, and nothing says so. It is also faster: a function that cannot be read from its trace is otherwise
    called several more times in every call.

    Args:
        baseline: a number, an array of shape `(n,)`, or a function of the `n` values.
    """
    return Independent(baseline)


def checked(baseline: Callable[[Array], ArrayLike], values: Array, pairs: bool = False) -> Array:
    """`baseline(values)`, shape `(n,)` or `()`; nan if an output moves with its own value, or with the other of its pair.

    Raises:
        ValueError: it is seen to move at known points, when tracing.
    """
    name, partners = name_of(baseline), [_itself, *([_other] if pairs else [])]
    if all(shown_independent(baseline, values, partner) for partner in partners):
        return jnp.asarray(baseline(values))
    check_own_value_unused(baseline, values, name)
    b = jnp.asarray(baseline(values))
    moves = jnp.stack([_moves(baseline, values, partner) for partner in partners]).any()
    if not isinstance(moves, jax.core.Tracer) and moves:
        raise Unsuitable(
            f"baseline: {name} uses its own value at these values, so it biases the gradient; use rgrad.leave_one_out, or leave "
            "the i-th value out of the i-th output"
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
    """Whether the trace shows that no output uses the value at its own place (or at `partner` of that)."""
    (n,) = values.shape
    if n > FOLLOWED or jax.eval_shape(baseline, jax.ShapeDtypeStruct(values.shape, values.dtype)).shape not in (
        (),
        (n,),
    ):
        return False
    own, places = np.arange(n), partner(np.arange(n))
    return not dependence(_spread(baseline, values), values, places)[own, own].any()


def check_own_value_unused(baseline: Callable[[Array], ArrayLike], values: Array, name: str) -> None:
    """Raises if output i moves with value i, at known points, whatever is being traced outside.

    Finite moves, small and large, see what the diagonal of the Jacobian sees and also what has no derivative: a
    `stop_gradient`, a rank, a threshold. At up to `COLUMNS` places i; if there are more values than that, a call of
    eight is looked at too, if the function takes it.
    """
    (n,) = values.shape
    for size in {n, min(n, 8)}:
        try:
            found = own_value_used(baseline, size)
        except Exception:  # made for n values only, or not for 64 bits: the program looks at the actual ones
            continue
        if found is not None:
            i, before, after = found
            raise Unsuitable(
                f"baseline: output {i} of {name} uses value {i} itself (it moves from {before:.3g} to {after:.3g} with it), so "
                "it is not independent of its own sample and biases the gradient (the plain mean shrinks it by 1 - 1/n); "
                "use rgrad.leave_one_out, or leave the i-th value out of the i-th output"
            )


def own_value_used(
    baseline: Callable[[Array], ArrayLike], n: int, partner: Partner = _itself
) -> tuple[int, float, float] | None:
    """The first place i whose output moves with value `partner(i)`, the output before and after; None if none does.

    At points about 0 and about each number in the program (the bounds of a clip, say), and with stand-ins for what is being
    traced on both sides of each number (a flag, the count of a loop).
    """
    rng = np.random.default_rng(0)
    places = np.unique(np.linspace(0, n - 1, min(n, max(4, min(COLUMNS, 2**18 // n)))).round().astype(int))
    rows, normal = np.arange(len(places)), rng.normal(size=n)
    # In 64 bits, so that what moves can be told from what is rounded.
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
                # What is nan there says nothing: a logarithm of a negative value, an overflow.
                with np.errstate(invalid="ignore"):
                    used = np.abs(own - before[places][:, None]) > 1e-6 * scale
                if used.any():
                    row, move = np.argwhere(used)[0]
                    return int(places[row]), float(before[places[row]]), float(own[row, move])
    return None


def _is_traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _stand_in(constant: Any, side: float | None, rng: np.random.Generator) -> Any:
    """A number for what a function closes over that is being traced, so that it can be computed now."""
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
    """The numbers that are written in a program, but for 0, 1 and such."""
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
    """Whether an output moves with its own value at the actual values: shape `()`, a bool.

    Value i is moved by about the spread of the values. Output i of a function that leaves it out moves by rounding only,
    and others by more, so what counts is a move beyond rounding and of more than 5 % of the largest.
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
    except NotImplementedError:  # a callback, say
        many = lambda v: lax.map(at, v)
    after = many(moved.reshape(-1, n)).reshape(moved.shape)
    change = jnp.abs(after - before)
    change = jnp.where(jnp.isfinite(change), change, 0.0)
    own = change[np.arange(len(places)), :, places]
    # How far a few units of the last place in the values move the outputs: what cancels may be much rounded.
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
