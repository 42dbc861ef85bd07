"""Discontinuities of f, found by bisection. A gradient that passes through f misses what a jump contributes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.backend.compiling import right

SEGMENTS = 4096  # the most lines between two points; f is evaluated at their ends
NUMBERS = 2**24  # the most numbers in all of their starts
LENGTHS = 8  # each half as long as the one before: if f is also steep, a jump shows only on a short line
KEPT = 64  # the number of lines that are bisected
HALVINGS = 48  # down to a few units in the last place, in 64 bits
LEAST = 1e-3  # the smallest jump, relative to the largest change of f along a line


class Jump(NamedTuple):
    """f changes by `size` between two adjacent points."""

    size: float
    where: Any
    """One of the points, with the structure of what f takes."""


def find_jump(f: Callable[[Any], ArrayLike], starts: Any, ends: Any) -> Jump | None:
    """The largest jump of f that bisection finds on the lines from `starts` to `ends`. None if there is none.

    Each line is halved repeatedly, and the half with the larger change of f is kept. For a continuous f the change
    shrinks with the length (for `|x|^p` as its p-th power). At a jump it stays the same. A jump is missed if no line
    crosses it, or if it is smaller than a thousandth of the largest change of f. The lines are fewer for points of more
    than 4,096 numbers (`segments_for`).

    Args:
        f: maps one point, a pytree of 64-bit floats, to a scalar.
        starts, ends: pytrees of arrays, with a leading axis over the lines.
    """
    with jax.enable_x64(True):
        first, last = (jax.tree.map(lambda a: jnp.asarray(a, float), points) for points in (starts, ends))

        def at(a: Any, b: Any, t: Array) -> Any:
            return jax.tree.map(lambda a, b: a + t * (b - a), a, b)

        def value(a: Any, b: Any, t: Array) -> Array:
            return jnp.asarray(f(at(a, b, t)), float)

        zero, one = jnp.zeros(()), jnp.ones(())
        of_ends = jax.jit(
            jax.vmap(lambda a, b: jnp.abs(value(a, b, one) - value(a, b, zero))), compiler_options=right()
        )(first, last)
        change = np.where(np.isfinite(of_ends), of_ends, 0.0)
        if not change.any():
            return None
        of_length = change.reshape(-1, LENGTHS).argsort(0)[::-1][: KEPT // LENGTHS] * LENGTHS + np.arange(LENGTHS)
        pick = lambda points: jax.tree.map(lambda a: a[of_length.ravel()], points)
        first, last = pick(first), pick(last)

        @partial(jax.jit, compiler_options=right())
        @jax.vmap
        def bisect(a: Any, b: Any) -> tuple[Array, Array, Array]:
            def halve(i: Array, line: tuple[Array, ...]) -> tuple[Array, ...]:
                low, high, at_low, at_high, early = line
                middle = (low + high) / 2
                here = value(a, b, middle)
                left = jnp.abs(here - at_low) >= jnp.abs(at_high - here)
                either = lambda x, y: jnp.where(left, x, y)
                early = jnp.where(i == HALVINGS // 2, jnp.abs(at_high - at_low), early)
                return either(low, middle), either(middle, high), either(at_low, here), either(here, at_high), early

            whole = (zero, one, *lax.map(lambda t: value(a, b, t), jnp.arange(2.0)), zero)
            low, _, at_low, at_high, early = lax.fori_loop(0, HALVINGS, halve, whole)
            return early, jnp.abs(at_high - at_low), low

        early, late, place = map(np.asarray, bisect(first, last))
        stays = np.isfinite(late) & (late > 0.9 * early) & (late > LEAST * change.max())
        if not stays.any():
            return None
        i = int(np.where(stays, late, 0.0).argmax())
        one_of = lambda points: jax.tree.map(lambda a: np.asarray(a[i]), points)
        return Jump(float(late[i]), jax.tree.map(np.asarray, at(one_of(first), one_of(last), place[i])))


def segments_for(size: int) -> int:
    """The number of lines between points of `size` numbers: fewer if these are many, but two of each length."""
    return max(2, min(SEGMENTS, NUMBERS // max(1, size)) // LENGTHS) * LENGTHS


def lines_between(x: Any) -> tuple[Any, Any]:
    """Lines of several lengths from each sample in x (a pytree of arrays, the lines in front) towards the next."""
    shorter = 0.5 ** (np.arange(len(jax.tree.leaves(x)[0])) % LENGTHS)

    def end(a: Any) -> Any:
        a = np.asarray(a, np.float64)
        return a + shorter.reshape(-1, *(1,) * (a.ndim - 1)) * (np.roll(a, -1, 0) - a)

    return x, jax.tree.map(end, x)


def lines_from(point: Any, count: int = SEGMENTS) -> tuple[Any, Any]:
    """Lines from one point, a pytree of arrays, to random points around it, up to about a tenth of its size away."""
    rng, shorter = np.random.default_rng(0), 0.5 ** (np.arange(count) % LENGTHS)

    def end(a: Any) -> Any:
        a = np.asarray(a, np.float64)
        step = 0.1 * shorter.reshape(-1, *(1,) * a.ndim) * rng.standard_normal((count, *a.shape))
        return a + step * (np.abs(a) + 0.1)

    start = jax.tree.map(lambda a: np.broadcast_to(np.asarray(a, np.float64), (count, *np.shape(a))), point)
    return start, jax.tree.map(end, point)
