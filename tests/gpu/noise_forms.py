"""Ways to make standard normals on an accelerator. `forms()` lists them for part c1."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import rgrad
from tests.gpu.post import THETA

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
FEW = 30  # rows of at most this many numbers lie along the first axis, as in rgrad: the second one is the long one
LOG = (3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1, -1.2420140846e-1,
       1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2)  # fmt: skip
SINE = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
COSINE = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)

Form = Callable[[int, int], Callable[[Any], tuple[Any, Any]]]
"""Maps the number of rows and their length to a function of a key. It makes the rows and reduces each of them to its
mean and its second moment."""


def threefry(key: tuple[Any, Any], counter: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with its twenty rounds written out: two words for each key and counter."""
    u = np.uint32
    schedule = (*key, key[0] ^ key[1] ^ u(0x1BD11BDA))
    x, y = schedule[0], counter + schedule[1]
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x = x + y
            y = x ^ (lax.shift_left(y, u(r)) | lax.shift_right_logical(y, u(32 - r)))
        x, y = x + schedule[(i + 1) % 3], y + (schedule[(i + 2) % 3] + u(i + 1))
    return x, y


def horner(coefficients: tuple[float, ...], x: Any) -> Any:
    value = np.float32(coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + np.float32(c)
    return value


def box_muller(first: Any, second: Any, library: bool) -> tuple[Any, Any]:
    """Two normals from two words, with the polynomials of Cephes or with the compiler's log, sin and cos."""
    f = np.float32
    u = (first.astype(f) + f(0.5)) * f(2**-32)
    if library:
        angle = lax.bitcast_convert_type(second, np.int32).astype(f) * f(math.pi * 2**-31)
        radius = jnp.sqrt(f(-2) * jnp.log(u))
        return radius * jnp.cos(angle), radius * jnp.sin(angle)
    word = lax.bitcast_convert_type(u, np.int32) - f(0.5**0.5).view(np.int32)
    exponent = lax.shift_right_arithmetic(word, np.int32(23)).astype(f)
    m = lax.bitcast_convert_type((word & np.int32(0x7FFFFF)) + f(0.5**0.5).view(np.int32), f) - f(1)
    m2 = m * m
    radius = jnp.sqrt(f(-2) * (exponent * f(math.log(2)) + (m - f(0.5) * m2 + m * m2 * horner(LOG, m))))
    low = lax.bitcast_convert_type(lax.shift_left(second, np.uint32(2)), np.int32)
    angle = low.astype(f) * f(math.pi / 4 * 2**-31)
    a2 = angle * angle
    sine = angle + angle * a2 * horner(SINE, a2)
    cosine = f(1) - f(0.5) * a2 + a2 * a2 * horner(COSINE, a2)
    sign, exchange = second & np.uint32(1 << 31), (second & np.uint32(1 << 30)) != 0
    x = lax.bitcast_convert_type(lax.bitcast_convert_type(radius, np.uint32) ^ sign, f) * cosine
    y = radius * sine
    return jnp.where(exchange, y, x), jnp.where(exchange, x, y)


def axes(rows: int, n: int) -> tuple[tuple[int, int], int]:
    """The shape of the rows, and the axis along which each row lies."""
    return ((rows, n), 1) if n > FEW else ((n, rows), 0)


def reduced(e: Any, axis: int) -> tuple[Any, Any]:
    return e.mean(axis), (e * e).mean(axis)


def words(key: Any, rows: int, n: int) -> tuple[Any, Any, int]:
    """The two words of each of the n / 2 blocks of a row, laid out as in `axes`; and the axis of the blocks."""
    _, axis = axes(rows, n)
    data = jax.random.key_data(key)
    row, counter = lax.iota(np.uint32, rows), lax.iota(np.uint32, n // 2)
    k0, k1 = (jnp.expand_dims(k, axis) for k in threefry((data[0], data[1]), row))
    return (*threefry((k0, k1), jnp.expand_dims(counter, 1 - axis)), axis)


def of_rgrad(rows: int, n: int) -> Any:
    of_row = lambda key, r: reduced(rgrad.noise.normal(rgrad.noise.fold_in(key, r), (n,)), 0)
    return lambda key: jax.vmap(partial(of_row, key))(jnp.arange(rows, dtype=jnp.uint32))


def normal(rows: int, n: int) -> Any:
    shape, axis = axes(rows, n)
    return lambda key: reduced(jax.random.normal(key, shape), axis)


def normal_by_row(rows: int, n: int) -> Any:
    _, axis = axes(rows, n)
    make = jax.vmap(lambda k: jax.random.normal(k, (n,)), out_axes=1 - axis)
    return lambda key: reduced(make(jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(rows))), axis)


def pairs(rows: int, n: int, library: bool = False, together: bool = False) -> Any:
    """Both normals of a block, without an array of all. `together`: both moments in one reduction."""

    def run(key: Any) -> tuple[Any, Any]:
        first, second, axis = words(key, rows, n)
        x, y = box_muller(first, second, library)
        a, b = x + y, x * x + y * y
        if together:
            zero = np.float32(0)
            a, b = lax.reduce((a, b), (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), (axis,))
        else:
            a, b = a.sum(axis), b.sum(axis)
        return a / n, b / n

    return run


def joined(rows: int, n: int, barrier: bool = False) -> Any:
    """All normals in one array. `barrier`: it is kept in memory, so no kernel makes it a second time."""

    def run(key: Any) -> tuple[Any, Any]:
        first, second, axis = words(key, rows, n)
        e = jnp.concatenate(box_muller(first, second, False), axis)
        return reduced(lax.optimization_barrier(e) if barrier else e, axis)

    return run


def block_by_block(rows: int, n: int) -> Any:
    """For short rows: no array has an axis of n, and nothing is reduced."""

    def run(key: Any) -> tuple[Any, Any]:
        data = jax.random.key_data(key)
        own = threefry((data[0], data[1]), lax.iota(np.uint32, rows))
        a, b = jnp.zeros(rows), jnp.zeros(rows)
        for block in range(n // 2):
            x, y = box_muller(*threefry(own, np.uint32(block)), False)
            a, b = a + (x + y), b + (x * x + y * y)
        return a / n, b / n

    return run


def bits(rows: int, n: int) -> Any:
    shape, axis = axes(rows, n)
    return lambda key: (jax.random.bits(key, shape).sum(axis), None)


def both_words(rows: int, n: int) -> Any:
    def run(key: Any) -> tuple[Any, Any]:
        first, second, axis = words(key, rows, n)
        return (first + second).sum(axis), None

    return run


def gradients(rows: int, n: int) -> Any:
    """Both gradients of E[x^2] instead of the moments of the noise: the least work that `measure` can do."""

    def run(key: Any) -> tuple[Any, Any]:
        first, second, axis = words(key, rows, n)
        e = box_muller(first, second, False)
        score = sum((THETA + z) ** 2 * z for z in e).sum(axis) / n
        path = sum(2 * (THETA + z) for z in e).sum(axis) / n
        return score - 4, (path - 4) ** 2 * n / 4

    return run


OURS, BLOCKS, GRADIENTS = "rgrad.noise.normal, a key for each row", "pairs, block by block", "both gradients, pairs"


def forms() -> dict[str, Form]:
    """All forms. The name of a form that needs a key of the kind rbg starts with it."""
    return {
        OURS: of_rgrad,
        "jax.random.normal, one key": normal,
        "jax.random.normal, a key for each row": normal_by_row,
        "pairs, polynomials": pairs,
        "pairs, polynomials, one reduction": partial(pairs, together=True),
        "pairs, the compiler's functions": partial(pairs, library=True),
        BLOCKS: block_by_block,
        "pairs joined to one array": joined,
        "pairs joined, kept in memory": partial(joined, barrier=True),
        "rbg, jax.random.normal, one key": normal,
        "rbg, only bits": bits,
        "threefry, only bits": bits,
        "threefry, both words": both_words,
        GRADIENTS: gradients,
    }
