"""The loop inside `measure`: batches of replicates, power sums in constant memory, one loop per core.

Three things make it accurate for 1e10 draws in 32 bits:

- Powers are taken of `(x - shift) / scale`, with the mean and the spread of the first batch, so that nothing cancels,
  overflows or underflows.
- Every lane of the batch keeps its sums in two words (compensated summation, Knuth's two-sum).
- Replicates are counted in two 32-bit words.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import get_opaque_trace_state

from rgrad.backend.chunks import in_chunks
from rgrad.backend.compiling import IN_CACHE, SHORT_SUMS, size_of
from rgrad.backend.noise import fold_in
from rgrad.backend.programs import compiled
from rgrad.backend.varying import varying_over
from rgrad.measurement.batches import IN_FLIGHT_TRACED, IN_TURN, WIDE, batch_for, batch_of, in_flight, in_turn
from rgrad.measurement.integers import difference, in_two_parts, is_wide
from rgrad.tracing.traced import depend, only_0_or_1

Words = tuple[Any, Any]  # an unsigned 64-bit number, high and low
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MOST_LANES = 2**13  # the most replicates that one core makes at once
LARGE = 2**19  # the elements beyond which the cores share one call, because a call on each would take too much memory


class SUMS(NamedTuple):
    """For each element of a call: sums over replicates of `z^k`, k = 1..4, with `z = (x - origin - shift) / scale`."""

    origin: tuple[Any, ...]
    """The first replicate if it is an integer, in two parts that floats represent exactly; 0 for a float. It is
    subtracted in integer arithmetic, because e.g. two billion and the next integer are the same 32-bit float.
    """
    shift: Any
    scale: Any
    high: tuple[Any, ...]
    low: tuple[Any, ...]
    nonfinite: Any
    constant: Any
    """Whether the traced `draw` shows that the element does not depend on the key."""
    binary: Any
    """Whether the traced `draw` shows that it can only be 0 or 1."""


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and its exact rounding error (Knuth 1969)."""
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def power_sums(draw: Callable[[Array], Any], key: Array, start: Words, end: Words, batch: int | None) -> Any:
    """`SUMS` of each element that `draw` returns, over the replicates `start`, ..., `end - 1`.

    Args:
        draw: maps one key to a pytree of arrays. One program is compiled for each `draw`; the rest are its arguments.
        batch: the number of replicates made at once, a power of two. Batches start at multiples of it, whatever `start`
            is.
    """
    return _program(draw, key, start, end, batch or batch_for(draw, key, in_flight()))


def power_sums_by_core(
    draw: Callable[[Array], Any], key: Array, start: int, stop: int, batch: int | None
) -> list[tuple[Any, int]]:
    """The replicates `start`, ..., `stop - 1` in one piece per core: the `SUMS` and the size of each piece.

    Each piece has its own thread and a single-threaded program, because threads that share the work of a step wait for
    one another at every step. On other platforms, and if anything is traced, there is one piece.
    """
    traced = get_opaque_trace_state(convention="flax") != nothing_traced()
    if traced:
        return [(_under_transformations(draw, key, start, stop, batch), stop - start)]
    if jax.default_backend() != "cpu":
        batch = batch or batch_for(draw, key, in_flight())
        return [(power_sums(draw, key, words(start), words(stop), batch), stop - start)]
    traced_once = jax.jit(draw).trace(key)
    work, largest = size_of(traced_once.jaxpr.jaxpr)
    fewest = in_turn(traced_once.out_info, (stop - start) // CORES)
    if largest > LARGE:
        return [(power_sums(draw, key, words(start), words(stop), batch or fewest), stop - start)]
    batch = batch or max(fewest, min(MOST_LANES, batch_of(work, largest, IN_CACHE)))
    program = program_of_one_core(draw, key, batch)
    batches = range(start - start % batch, stop, batch)
    firsts = [start, *batches[:: -(-len(batches) // CORES)][1:]]
    pieces = list(zip(firsts, [*firsts[1:], stop], strict=True))
    sums = side_by_side(lambda piece: jax.block_until_ready(program(key, *map(words, piece))), pieces)
    return [(done, b - a) for done, (a, b) in zip(sums, pieces, strict=True)]


def _under_transformations(draw: Callable[[Array], Any], key: Array, start: int, stop: int, batch: int | None) -> Any:
    """The `SUMS` if something is traced. Under `vmap`, the settings are measured in chunks, whatever their number."""
    closed, shapes = jax.make_jaxpr(draw, return_shape=True)(key)
    structure = jax.tree.structure(shapes)
    is_traced = [isinstance(x, jax.core.Tracer) for x in closed.consts]
    traced = [x for x in closed.consts if isinstance(x, jax.core.Tracer)]
    flight = min(in_flight(), IN_FLIGHT_TRACED)
    work, largest = size_of(closed.jaxpr)
    # No more lanes than replicates: under `vmap`, every setting has its own lanes.
    batch = batch or min(batch_of(work, largest, flight), 2 ** (stop - start - 1).bit_length())

    def sums(key: Array, *traced: Any) -> Any:
        given = iter(traced)
        consts = [next(given) if is_one else x for x, is_one in zip(closed.consts, is_traced, strict=True)]
        again = lambda key: jax.tree.unflatten(structure, jax.core.eval_jaxpr(closed.jaxpr, consts, key))
        return power_sums(again, key, words(start), words(stop), batch)

    return in_chunks(sums, max(1, flight // (batch * largest)), key, *traced)


def side_by_side(call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """`call` of each argument, each in its own thread; one after another if Python is shutting down."""
    if len(arguments) == 1:
        return [call(arguments[0])]
    try:
        with ThreadPoolExecutor(len(arguments)) as threads:
            calls = [threads.submit(call, argument) for argument in arguments]
    except RuntimeError:
        return [call(argument) for argument in arguments]
    return [done.result() for done in calls]


@cache
def nothing_traced() -> Any:
    """JAX's trace state if nothing is traced. It is read in another thread, because this one may be tracing."""
    state, _ = side_by_side(lambda _: get_opaque_trace_state(convention="flax"), [None, None])
    return state


def program_of_one_core(draw: Callable[[Array], Any], key: Array, batch: int) -> Any:
    """The compiled program of one core. It is kept as long as `draw`.

    It is compiled in this thread, not in the one that calls it, because JAX's settings (e.g. 64 bits) are per thread.
    """
    _, largest = size_of(jax.jit(draw).trace(key).jaxpr.jaxpr)
    program = _program.of(draw, batch).with_options(one_core=True, short_sums=largest <= SHORT_SUMS)
    return program.lower(key, words(0), words(0)).compile()


def words(number: int) -> Words:
    """A count up to 2**64 as two 32-bit words, high and low, because JAX has no 64-bit integers by default."""
    return np.uint32(number >> 32), np.uint32(number & 0xFFFFFFFF)


def _power_sums(draw: Callable[[Array], Any], key: Array, start: Words, end: Words, lanes: int) -> Any:
    traced, shapes = jax.make_jaxpr(draw, return_shape=True)(key)
    leaves, structure = jax.tree.flatten(shapes)
    if not leaves:
        raise TypeError("measure: draw returned nothing to measure; return an array or a pytree of arrays")
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(f"measure: draw must return real numbers, got {leaf.dtype}; return e.g. the real part")
    lane = jnp.arange(lanes, dtype=jnp.uint32)
    first = (jnp.asarray(start[0]), jnp.asarray(start[1]) & np.uint32(~(lanes - 1) & 0xFFFFFFFF))
    # Integers are measured as floats of the widest type.
    dtype = jnp.result_type(jnp.float32, *(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else float for x in leaves))

    def step(state: tuple[Words, SUMS, list[Array]]) -> tuple[Words, SUMS, list[Array]]:
        (high, low), sums, origins = state
        # `low` is a multiple of the batch, so there is no carry into the high word within a batch.
        number = low + lane
        wanted = ~_before(high, number, start) & _before(high, number, end)
        prefix = fold_in(key, high)
        one_call = lambda r: draw(fold_in(prefix, r))
        x = jax.tree.leaves(lax.map(one_call, number) if in_one else _each_lane(one_call, number))
        is_first = (high == first[0]) & (low == first[1])
        one = jnp.asarray(start[1]) & np.uint32(lanes - 1)  # the first lane that is wanted in the first batch
        origins = [
            jnp.where(is_first, leaf[one], origin) if is_wide(leaf.dtype) else origin
            for leaf, origin in zip(x, origins, strict=True)
        ]
        # All elements of the call in one array, one row each. One program for all leaves halves the compile time.
        apart = [difference(leaf, origin, dtype).reshape(lanes, -1).T for leaf, origin in zip(x, origins, strict=True)]
        low = low + np.uint32(lanes & 0xFFFFFFFF)
        return (
            (high + (low == 0).astype(high.dtype), low),
            _add(wanted, is_first, sums, jnp.concatenate(apart), one),
            origins,
        )

    sizes = [math.prod(leaf.shape) for leaf in leaves]
    in_one = sum(sizes) >= WIDE and lanes <= IN_TURN  # all lanes have the same sums
    one, word = jnp.zeros(sum(sizes), dtype), jnp.zeros((sum(sizes), 1 if in_one else lanes), dtype)
    is_true = lambda marks: jnp.asarray(np.repeat(np.asarray(marks, bool), sizes))
    constant = is_true([not marked for marked in depend(traced.jaxpr, [True])])
    binary = is_true(only_0_or_1(traced.jaxpr, [False], traced.consts))
    zeros = SUMS((one, one), one, one, (word,) * 4, (word,) * 4, word.astype(jnp.uint32), constant, binary)
    axes = frozenset[str]().union(*(out.manual_axis_type.varying for out in traced.out_avals))  # of a shard_map
    origins = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
    zeros, origins = jax.tree.map(partial(varying_over, axes=axes), (zeros, origins))
    _, sums, origins = lax.while_loop(lambda state: _before(*state[0], end), step, (first, zeros, origins))
    parts = zip(*(in_two_parts(origin, dtype) for origin in origins), strict=True)
    sums = sums._replace(origin=tuple(jnp.concatenate(part) for part in parts))
    total, ends = _across_lanes(sums), np.cumsum(sizes)
    pick = lambda leaf, size, end: jax.tree.map(lambda row: row[end - size : end].reshape(leaf.shape), total)
    return jax.tree.unflatten(structure, [pick(*of) for of in zip(leaves, sizes, ends, strict=True)])


def _each_lane(draw: Callable[[Array], Any], number: Array) -> Any:
    """The call of each lane. One lane is not mapped: a large matrix product with a batch of 1 is ten times as slow."""
    return jax.vmap(draw)(number) if len(number) > 1 else jax.tree.map(lambda x: jnp.asarray(x)[None], draw(number[0]))


_program = compiled(_power_sums, ("draw", "lanes"))


def _add(wanted: Array, is_first: Array, sums: SUMS, x: Array, one: Array) -> SUMS:
    """`sums` with one more replicate in each wanted lane, e.g. the lane `one`. `x` has shape `(elements, lanes)`.

    The sums may have one column for all lanes.
    """
    together = (lambda x: x) if sums.nonfinite.shape == x.shape else (lambda x: x.sum(1, keepdims=True))
    use = wanted[None] & jnp.isfinite(x)
    count = jnp.maximum(use.sum(1, keepdims=True), 1).astype(x.dtype)
    mean = jnp.where(use, x / count, 0.0).sum(1)  # divided first: the sum may overflow
    shift = jnp.where(is_first, mean, sums.shift)
    most = jnp.abs(jnp.where(use, x - shift[:, None], 0.0)).max(1)
    # If all draws agree up to rounding, the mean of the first batch may differ from all of them. Shift by one of the
    # draws instead, so that an element that never varies has a variance of exactly 0.
    agree = is_first & (most <= 2**-20 * jnp.abs(mean)) & jnp.isfinite(x[:, one])
    shift = jnp.where(agree, x[:, one], shift)
    scale = _scale_for(most, sums.scale)
    known = jnp.where(scale > 0, scale, 1.0)
    # Scale before subtracting: the difference of two numbers near the largest float may overflow.
    less = 1 / known[:, None]
    z = jnp.where(use, x * less - shift[:, None] * less, 0.0)
    # If the scale grew, it grew by a power of two, so the sums so far are rescaled without rounding.
    shrink = jnp.where(scale > 0, sums.scale / known, 1.0)[:, None]
    high, low = [], []
    for k in range(4):
        total, lost = two_sum(sums.high[k] * shrink ** (k + 1), together(z ** (k + 1)))
        high.append(total)
        low.append(sums.low[k] * shrink ** (k + 1) + lost)
    nonfinite = sums.nonfinite + together((wanted[None] & ~jnp.isfinite(x)).astype(jnp.uint32))
    return sums._replace(shift=shift, scale=scale, high=tuple(high), low=tuple(low), nonfinite=nonfinite)


def _scale_for(spread: Array, scale: Array) -> Array:
    """The next scale, a power of two. It stays the same unless it was not set or the new spread is far beyond it.

    It is 0 until there is a spread. With |z| up to 2^16, sums of 1e10 fourth powers stay below 1e30.
    """
    info = jnp.finfo(spread.dtype)
    _, exponent = jnp.frexp(jnp.minimum(spread, info.max))
    # Neither the scale nor its inverse may be subnormal: subnormal floats are flushed to 0.
    power = jnp.ldexp(jnp.ones_like(spread), jnp.clip(exponent - 1, info.minexp + 2, -info.minexp - 2))
    return jnp.where((spread > 0) & ((scale == 0) | (spread > 2**16 * scale)), power, scale)


def _across_lanes(sums: SUMS) -> SUMS:
    """The sum over the lanes, with the rounding errors kept in the low words."""

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        high, lost = two_sum(a[0], b[0])
        return high, a[1] + b[1] + lost

    zero = np.zeros((), sums.shift.dtype)
    both = [lax.reduce(words, (zero, zero), add, (1,)) for words in zip(sums.high, sums.low, strict=True)]
    nonfinite = sums.nonfinite.astype(sums.shift.dtype).sum(1)
    return sums._replace(high=tuple(h for h, _ in both), low=tuple(lo for _, lo in both), nonfinite=nonfinite)


def _before(high: Array, low: Array, other: Words) -> Array:
    return (high < other[0]) | ((high == other[0]) & (low < other[1]))
