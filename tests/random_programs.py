"""Random programs, each written once for both NumPy and JAX. NumPy in 64 bits gives the reference.

A program is a function of an `Ops`, which is NumPy or JAX, and of float32 arguments. Tolerances are calibrated:
`tolerance` says how far off rounding can be.
"""

import string
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

ROWS = (1, 2, 3, 7, 8, 17, 64, 100, 1000, 4096, 33_000)  # some faults need more than 2^15 numbers
SMALL = (1, 2, 3, 4, 5, 8, 16)
MOST = 400_000  # the largest number of elements of an operand


class Program(NamedTuple):
    name: str
    function: Any
    """Maps `(ops, *arguments)` to an array."""
    arguments: tuple[Any, ...]


class Numpy:
    """NumPy, with the precision of the arguments: 64 bits for the reference."""

    xp = np

    def scan(self, decay, x):
        state, states = np.zeros_like(x[0]), []
        for row in x:
            state = decay * state + row
            states.append(state)
        return np.stack(states)

    def convolution(self, x, w, padding):
        """Convolve x, (batch, channels, length), with w, (out, channels, width)."""
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
        return np.einsum("nclw,ocw->nol", sliding_window_view(x, w.shape[-1], axis=2), w)

    def convolution2d(self, x, w):
        return np.einsum("nchwij,ocij->nohw", sliding_window_view(x, w.shape[-2:], axis=(2, 3)), w)

    def solve_triangular(self, lower, b):
        return np.linalg.solve(lower, b)

    def scatter_add(self, x, index, size):
        total = np.zeros((size, *x.shape[1:]), x.dtype)
        np.add.at(total, index, x)
        return total

    def cummax(self, x, axis):
        return np.maximum.accumulate(x, axis)

    def slice(self, x, start, size):
        return x[start : start + size]


class Jax:
    xp = jnp

    def scan(self, decay, x):
        def step(state, row):
            state = decay * state + row
            return state, state

        return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]

    def convolution(self, x, w, padding):
        return jax.lax.conv_general_dilated(x, w, (1,), [(padding, padding)])

    def convolution2d(self, x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")

    def solve_triangular(self, lower, b):
        return jax.scipy.linalg.solve_triangular(lower, b, lower=True)

    def scatter_add(self, x, index, size):
        return jnp.zeros((size, *x.shape[1:]), x.dtype).at[index].add(x)

    def cummax(self, x, axis):
        return jax.lax.cummax(x, axis)

    def slice(self, x, start, size):
        return jax.lax.dynamic_slice_in_dim(x, start, size)


BEFORE = {
    "x": lambda o, x: x,
    "x + 1": lambda o, x: x + 1,
    "2 x": lambda o, x: x * 2,
    "x^2": lambda o, x: x**2,
    "exp(-x^2)": lambda o, x: o.xp.exp(-(x**2)),
    "max(x, 0)": lambda o, x: o.xp.maximum(x, 0),
    "tanh x": lambda o, x: o.xp.tanh(x),
    "x less its mean": lambda o, x: x - x.mean(-1, keepdims=True),
}
AFTER = {
    "": lambda o, y: y,
    "sum of": lambda o, y: y.sum(),
    "mean of squares of": lambda o, y: (y**2).mean(),
    "rows of": lambda o, y: y.sum(tuple(range(1, y.ndim))),
    "last axis of": lambda o, y: y.sum(-1) if y.ndim else y,
    "columns of squares of": lambda o, y: (y**2).sum(0) if y.ndim else y,
    "tanh of": lambda o, y: o.xp.tanh(y / 4),
    "largest of": lambda o, y: y.max(),
}


def normals(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def one_of(rng, choices):
    choices = list(choices)
    return choices[rng.integers(len(choices))]


def sizes(rng, count, most=MOST):
    """Return `count` small sizes. One of them, at a random place, is replaced by a number of rows."""
    while True:
        shape = [int(one_of(rng, SMALL)) for _ in range(count)]
        if count:
            shape[rng.integers(count)] = int(one_of(rng, ROWS))
        if np.prod(shape, dtype=float) <= most:
            return tuple(shape)


def operand(rng, shape):
    """Return a description, arguments and a function for an operand of this shape: a full array, or a broadcast one."""
    kind = one_of(rng, ("array", "array", "array", "plus", "ones", "scalar", "row", "scaled"))
    if kind == "ones":
        return kind, (), lambda o: o.xp.ones(shape, np.float32)
    if kind == "scalar":
        return kind, (normals(rng) + 2,), lambda o, t: o.xp.broadcast_to(t, shape)
    if kind == "row":
        kept = tuple(n if rng.random() < 0.5 else 1 for n in shape)
        return f"{kept} broadcast", (normals(rng, *kept),), lambda o, x: o.xp.broadcast_to(x, shape)
    if kind == "scaled":
        return kind, (normals(rng, *shape), normals(rng) + 2), lambda o, x, t: x * t
    name = one_of(rng, BEFORE) if kind == "plus" and shape else "x"
    return name, (normals(rng, *shape),), lambda o, x: BEFORE[name](o, x)


def dot(rng):
    """Return a product with any layout of batch, contraction and free axes. Its operands may be broadcast."""
    counts = rng.integers(0, 3), rng.integers(1, 3), rng.integers(0, 3), rng.integers(0, 2)
    labels = iter(string.ascii_lowercase)
    batch, contracted, left, right = (["".join(next(labels)) for _ in range(n)] for n in counts)
    while True:
        every = batch + contracted + left + right
        size = dict(zip(every, sizes(rng, len(every), 4e6), strict=True))
        shapes = [rng.permutation(batch + contracted + free) for free in (left, right)]
        numbers = [np.prod([size[i] for i in s], dtype=float) for s in (*shapes, batch + left + right)]
        if max(numbers) <= MOST:
            break
    out = "".join(rng.permutation(batch + left + right)) if batch + left + right else ""
    equation = ",".join("".join(s) for s in shapes) + "->" + out
    (one, args, make), (two, more, make_other) = (operand(rng, tuple(size[i] for i in s)) for s in shapes)
    after = one_of(rng, AFTER if out else [""])

    def f(o, *arguments):
        x, y = make(o, *arguments[: len(args)]), make_other(o, *arguments[len(args) :])
        return AFTER[after](o, o.xp.einsum(equation, x, y))

    return Program(f"{after} einsum {equation} {size} of {one} and {two}", f, args + more)


def product(rng):
    """Return a product `@` of something computed on the fly, as in a layer of a network."""
    rows, n, m = int(one_of(rng, ROWS)), int(one_of(rng, SMALL)), int(one_of(rng, SMALL))
    group = int(one_of(rng, (1, 2, 4))) if rows * n * 4 <= MOST else 1
    shape = (rows, group, n) if group > 1 else (rows, n)
    before, after = one_of(rng, BEFORE), one_of(rng, AFTER)
    name, args, make = operand(rng, (n, m))
    f = lambda o, x, *rest: AFTER[after](o, BEFORE[before](o, x) @ make(o, *rest))
    return Program(f"{after} ({before}) @ {name}, {shape} by {(n, m)}", f, (normals(rng, *shape), *args))


def reduction(rng):
    shape = sizes(rng, int(rng.integers(1, 5)))
    axes = tuple(int(i) for i in np.flatnonzero(rng.random(len(shape)) < 0.5)) or (int(rng.integers(len(shape))),)
    how = one_of(rng, ("sum", "mean", "max", "min", "var", "sum", "sum", "prod"))
    if np.prod([shape[i] for i in axes]) > 100 and how == "prod":
        how = "sum"  # a product would multiply too many roundings
    before, keep = one_of(rng, BEFORE), bool(rng.random() < 0.3)
    scale = 0.1 if how == "prod" else 1.0  # for products, all numbers are near 1

    def f(o, x):
        y = BEFORE[before](o, x)
        y = 1 + scale * o.xp.tanh(y) / max(1, np.sqrt(y.size)) if how == "prod" else y
        return getattr(y, how)(axes, keepdims=keep)

    return Program(f"{how} of {before} along {axes} of {shape}", f, (normals(rng, *shape),))


def two_reductions(rng):
    """Return two reductions of one array along different axes, in one program."""
    shape = sizes(rng, int(rng.integers(2, 4)))
    first, second = int(rng.integers(len(shape))), int(rng.integers(len(shape)))
    f = lambda o, x: (x + 1).sum(first, keepdims=True) * (x**2).mean(second, keepdims=True)
    return Program(f"sums along {first} and {second} of {shape}", f, (normals(rng, *shape),))


def scan(rng):
    steps, shape = int(one_of(rng, (1, 5, 64))), sizes(rng, int(rng.integers(0, 3)), 20_000)
    after = one_of(rng, AFTER)
    f = lambda o, x: AFTER[after](o, o.scan(0.5, x))
    return Program(f"{after} scan of {(steps, *shape)}", f, (normals(rng, steps, *shape),))


def scan_of_products(rng):
    rows, n, steps = int(one_of(rng, (1, 3, 64, 1000, 33_000))), int(one_of(rng, (2, 3, 5))), 4

    def f(o, x, w):
        state = x
        for _ in range(steps):
            state = o.xp.tanh(state @ w)
        return state.sum(1)

    return Program(f"{steps} layers of {(rows, n)}", f, (normals(rng, rows, n), normals(rng, n, n)))


def cumulative(rng):
    shape = sizes(rng, int(rng.integers(1, 4)), 100_000)
    axis, how = int(rng.integers(len(shape))), one_of(rng, ("cumsum", "cummax", "cumsum"))
    f = lambda o, x: o.xp.cumsum(x + 1, axis) if how == "cumsum" else o.cummax(x + 1, axis)
    return Program(f"{how} along {axis} of {shape}", f, (normals(rng, *shape),))


def sort(rng):
    shape = sizes(rng, int(rng.integers(1, 4)), 100_000)
    axis, before = int(rng.integers(len(shape))), one_of(rng, ("x", "2 x", "tanh x"))
    apart = rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)  # rounding cannot change the order

    def sorted_(o, x):
        return o.xp.sort(BEFORE[before](o, x / apart.size), axis)

    places = lambda o, x: o.xp.argsort(x, axis) * 1.0
    f = one_of(rng, (sorted_, places))
    return Program(f"sort of {before} along {axis} of {shape}", f, (apart,))


def gather(rng):
    shape = sizes(rng, int(rng.integers(1, 4)))
    index = rng.integers(0, shape[0], int(one_of(rng, ROWS[:9]))).astype(np.int32)
    size = int(rng.integers(1, shape[0] + 1))
    makes = {
        "rows of": lambda o, x, i: (x + 1)[i].sum(tuple(range(1, len(shape)))),
        "added up by": lambda o, x, i: o.scatter_add(x[i] ** 2, i % 3, 3),
        "slice of": lambda o, x, i: o.slice(x * 2, shape[0] - size, size).mean(0),
        "along": lambda o, x, i: o.xp.take_along_axis(x, o.xp.argsort(x, 0)[::-1], 0).sum(-1),
    }
    name = one_of(rng, makes)
    distinct = rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float32) / np.prod(shape)
    return Program(f"{name} {len(index)} of {shape}", makes[name], (distinct.astype(np.float32), index))


def linear_algebra(rng):
    n, batch = int(one_of(rng, (1, 2, 3, 5, 8))), int(one_of(rng, (1, 3, 64, 1000)))
    a = normals(rng, batch, n, n)

    def factor(o, a):
        return o.xp.linalg.cholesky(a @ a.swapaxes(-1, -2) + n * o.xp.eye(n, dtype=a.dtype))

    makes = {
        "Cholesky": lambda o, a, b: factor(o, a),
        "log det": lambda o, a, b: o.xp.log(o.xp.diagonal(factor(o, a), axis1=-2, axis2=-1)).sum(-1),
        "whitened": lambda o, a, b: o.solve_triangular(factor(o, a), b),
        "Mahalanobis": lambda o, a, b: (o.solve_triangular(factor(o, a), b) ** 2).sum((-2, -1)),
        "factor times": lambda o, a, b: (factor(o, a) @ b).sum(-1),
    }
    name = one_of(rng, makes)
    return Program(f"{name} {(batch, n)}", makes[name], (a, normals(rng, batch, n, 2)))


def convolution(rng):
    c, out, w = (int(one_of(rng, (1, 2, 3, 5))) for _ in range(3))
    batch, length = int(one_of(rng, (1, 3, 64, 1000))), int(rng.integers(w, 30))
    before, after = one_of(rng, BEFORE), one_of(rng, AFTER)
    if rng.random() < 0.5:
        padding = int(rng.integers(0, 3))
        f = lambda o, x, k: AFTER[after](o, o.convolution(BEFORE[before](o, x), k, padding))
        arguments = normals(rng, batch, c, length), normals(rng, out, c, w)
    else:
        f = lambda o, x, k: AFTER[after](o, o.convolution2d(BEFORE[before](o, x), k))
        arguments = normals(rng, min(batch, 64), c, length, w + 2), normals(rng, out, c, w, w)
    shapes = [x.shape for x in arguments]
    return Program(f"{after} convolution of {before}, {shapes}", f, arguments)


def cast(rng):
    shape = sizes(rng, 2)
    x = (rng.integers(-40, 40, shape) / 4 + 1 / 8).astype(np.float32)  # rounding cannot move these past an integer
    makes = {
        "int": lambda o, x: (x.astype(np.int32) @ o.xp.ones((shape[1], 3), np.int32)) * 1.0,
        "bool": lambda o, x: (x > 0).astype(np.float32) @ (o.xp.ones((shape[1], 3), np.float32) * 2),
        "count": lambda o, x: (x > 1).sum(0) * 1.0,
        "float of int": lambda o, x: (x.astype(np.int32).astype(np.float32) + 1).sum(1),
        "largest place": lambda o, x: o.xp.where(x > 0, x, 0).astype(np.int32).max(1) * 0.5,
    }
    name = one_of(rng, makes)
    return Program(f"cast to {name} of {shape}", makes[name], (x,))


def attention(rng):
    rows, length, n = int(one_of(rng, (1, 3, 64, 1000))), int(one_of(rng, (2, 5))), int(one_of(rng, (2, 4, 8)))

    def f(o, q, k):
        scores = o.xp.exp(o.xp.tanh(o.xp.einsum("bqd,bkd->bqk", q, k) / n))
        return ((scores / scores.sum(-1, keepdims=True)) @ (k + 1)).mean((1, 2))

    return Program(f"attention {(rows, length, n)}", f, (normals(rng, rows, length, n), normals(rng, rows, length, n)))


def slab(rng):
    """Return a program of elementwise operations, broadcasts, transposes, reversals, paddings and concatenations."""
    shape = sizes(rng, 3)
    order, axis = rng.permutation(3), int(rng.integers(3))
    before = one_of(rng, BEFORE)

    def f(o, x, t):
        y = o.xp.concatenate([BEFORE[before](o, x), o.xp.flip(x, axis) * t], axis)
        return o.xp.pad(y.transpose(*order), ((1, 0), (0, 2), (0, 0))).sum(1)

    return Program(
        f"{before}, joined along {axis}, transposed {order}, of {shape}", f, (normals(rng, *shape), normals(rng))
    )


KINDS = (dot, product, reduction, dot, linear_algebra, product, convolution, two_reductions, scan, dot, cumulative, gather,
         product, sort, cast, scan_of_products, dot, attention, slab, reduction)  # fmt: skip


def programs(count, seed=0):
    """Return the first `count` programs of a seed. The kinds of programs take turns."""
    return [KINDS[i % len(KINDS)](np.random.default_rng((seed, i))) for i in range(count)]


def truth(program):
    """Return the result of NumPy in 64 bits."""
    return np.asarray(program.function(Numpy(), *map(_wide, program.arguments)), float)


def tolerance(program, right):
    """Return 300 times the effect of one rounding of every argument, plus 1e-5 of the largest number and of 1.

    A sum of n numbers of one sign is off by up to n roundings, but typically by sqrt(n) of them: 200 for 33,000 numbers.
    The known compiler faults are as large as the numbers themselves.
    """
    rng = np.random.default_rng(0)
    moved = [
        a * (1 + 2.0**-24 * rng.choice([-1, 1], a.shape)) if a.dtype.kind == "f" else a
        for a in map(_wide, program.arguments)
    ]
    off = np.abs(np.asarray(program.function(Numpy(), *moved), float) - right).max()
    return 300 * off + 1e-5 * np.abs(right).max() + 1e-5


def wrong(programs, compile, together=1):
    """Return the names of the programs that differ from NumPy when `compile(function)` has compiled them.

    Args:
        together: the number of programs that are compiled as one.
    """
    found = []
    for start in range(0, len(programs), together):
        some = programs[start : start + together]
        run = compile(lambda every, some=some: [p.function(Jax(), *a) for p, a in zip(some, every, strict=True)])
        for program, got in zip(some, run([p.arguments for p in some]), strict=True):
            right = truth(program)
            got = np.asarray(got, float)
            if got.shape != right.shape or not np.all(np.abs(got - right) <= tolerance(program, right)):
                found.append(f"{program.name}: off by {np.abs(got - right).max():.3g} of {np.abs(right).max():.3g}")
    return found


def _wide(a):
    return np.asarray(a, np.float64 if np.asarray(a).dtype.kind == "f" else None)
