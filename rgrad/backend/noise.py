"""Standard uniform and normal noise from a key. It is as good as that of `jax.random`, and several times faster on CPU.

The bits are those of `jax.random` (threefry2x32, Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405): `bits`,
`fold_in` and `split` return exactly what its own functions return. Three things make the noise faster:

- The twenty rounds are written out. XLA fuses them, and whatever uses the noise, into one vectorised loop. On CPU,
  `jax.random` loops over arrays.
- Each threefry block gives two words, and both are used. `jax.random` combines them into one by exclusive or.
- The Box-Muller transform turns two words into two normals, with short polynomials. `jax.random` inverts the normal
  distribution function. The transform starts from 32 bits, so the tails are correct up to |e| = 6.7 and end there. This
  cuts off a probability of 1e-11.

NVIDIA GPUs give the same numbers up to rounding; only the loops are arranged differently. On other platforms, for other
kinds of key (rbg) and for 64-bit floats, these functions call `jax.random`. The same key then gives different numbers.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

Shape = tuple[int, ...]
Pair = tuple[Any, Any]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # Salmon et al. 2011; Random123, threefry.h: R_32x2
PARITY = np.uint32(0x1BD11BDA)  # from the same source: SKEIN_KS_PARITY32, of the key schedule
SINE = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)  # Moshier, Cephes, sinf.c: |angle| <= pi/4
COSINE = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)  # the same
LOGARITHM = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)  # fmt: skip; the same, logf.c: (log(1 + x) - x + x^2/2) / x^3 for 1 + x between the roots of 1/2 and of 2
ROOT_OF_HALF = np.float32(0.5**0.5).view(np.int32)
SMALL = (
    2**11
)  # so few numbers are made one by one, each from a block of its own: this compiles in two thirds of the time
FEW_BLOCKS = 15  # with at most this many blocks per key, the vectorised loop runs over keys; with more, over blocks


def threefry2x32(key: Pair, counter: Array) -> Pair:
    """The threefry cipher: two words for each key (two words) and each counter below 2^32. Shapes broadcast."""
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    x0, x1 = schedule[0], counter + schedule[1]  # the counter's high word is 0
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (lax.shift_left(x1, np.uint32(r)) | lax.shift_right_logical(x1, np.uint32(32 - r)))
        x0, x1 = x0 + schedule[(i + 1) % 3], x1 + (schedule[(i + 2) % 3] + np.uint32(i + 1))
    return x0, x1


def bits(key: Array, shape: Shape = ()) -> Array:
    """The same as `jax.random.bits(key, shape, "uint32")`, bit for bit."""
    if not is_ours(key, math.prod(shape)):
        return jax.random.bits(key, shape, "uint32")
    first, second = threefry2x32(_words_of(key), lax.iota(np.uint32, math.prod(shape)))
    return (first ^ second).reshape(shape)


def fold_in(key: Array, data: Any) -> Array:
    """The same as `jax.random.fold_in(key, data)`, bit for bit."""
    if not _is_fused(key):
        return jax.random.fold_in(key, data)
    first, second = threefry2x32(_words_of(key), jnp.asarray(data, np.uint32))
    return _as_keys(lax.concatenate([first[None], second[None]], 0), key)  # XLA sees through this, but not a stack


def _is_fused(key: Array, size: int = 1) -> bool:
    """Whether the rounds become part of a traced program. If they ran one by one, they would take milliseconds."""
    return is_ours(key, size) and bool(_words_of(key)) and isinstance(key, jax.core.Tracer)


def _as_keys(words: Array, like: Array) -> Array:
    """Words as keys of the same type as `like`, which may be a legacy key."""
    return (
        jax.random.wrap_key_data(words, impl="threefry2x32")
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
        else words
    )


def split(key: Array, num: int | Shape = 2) -> Array:
    """The same as `jax.random.split(key, num)`, bit for bit. It compiles faster, because XLA fuses it."""
    if not isinstance(num, int) or not _is_fused(key, num):
        return jax.random.split(key, num)
    first, second = threefry2x32(_words_of(key), lax.iota(np.uint32, num))
    return _as_keys(lax.concatenate([first[:, None], second[:, None]], 1), key)


def uniform(key: Array, shape: Shape = (), dtype: Any = float) -> Array:
    """Uniform noise on the open interval (0, 1).

    With a threefry key and 32-bit floats, the values are odd multiples of 2^-24, symmetric about 1/2.
    """
    if not is_ours(key, math.prod(shape), dtype):
        return jax.random.uniform(key, shape, dtype, minval=jnp.finfo(jax.dtypes.canonicalize_dtype(dtype)).tiny)
    return _noise.bind(*_words_of(key), shape=shape, kind="uniform")


def normal(key: Array, shape: Shape = (), dtype: Any = float) -> Array:
    """Standard normal noise. In 32-bit floats, |e| <= 6.77."""
    if not is_ours(key, math.prod(shape), dtype):
        return jax.random.normal(key, shape, dtype)
    return _noise.bind(*_words_of(key), shape=shape, kind="normal")


def is_ours(key: Array, size: int = 1, dtype: Any = np.float32) -> bool:
    """Whether this module makes the noise, instead of `jax.random`.

    This needs a threefry key, 32-bit floats, fewer than 2^32 elements (each has its own 32-bit counter), and
    `jax_threefry_partitionable`, which is the default since jax 0.5.
    """
    known = jax.random.key_impl(key) == "threefry2x32" and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    return bool(known) and 0 < size < 2**32 and jax.dtypes.canonicalize_dtype(dtype) == np.float32


def _words_of(key: Array) -> Pair:
    data = jax.random.key_data(key)
    if data.ndim != 1:  # the words of several keys would be mistaken for those of one
        raise ValueError(
            f"rgrad.noise: key is an array of keys, of shape {data.shape[:-1]}; give one key, and use vmap"
        )
    return data[0], data[1]


def _open_uniform(word: Array) -> Array:
    odd = (lax.shift_right_logical(word, np.uint32(9)) * 2 + 1).astype(np.int32)  # from int32 the conversion is fast
    return odd.astype(np.float32) * np.float32(2**-24)


def _box_muller(first: Array, second: Array) -> Pair:
    """Two normals, `sqrt(-2 log u) (cos a, sin a)`.

    u is the first word. The low 30 bits of the second word are an angle between -pi/4 and pi/4. Its two high bits
    choose the quadrant: one exchanges cosine and sine, the other is the sign of the cosine.

    Source: Box and Muller 1958, https://doi.org/10.1214/aoms/1177706645.
    """
    u = (first.astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
    radius = jnp.sqrt(np.float32(-2) * _log(u))
    low = lax.bitcast_convert_type(lax.shift_left(second, np.uint32(2)), np.int32)
    angle = low.astype(np.float32) * np.float32(math.pi / 4 * 2**-31)
    z = angle * angle
    sine = angle + angle * z * _polynomial(SINE, z)
    cosine = np.float32(1) - np.float32(0.5) * z + z * z * _polynomial(COSINE, z)
    sign = second & np.uint32(1 << 31)
    exchange = (second & np.uint32(1 << 30)) != 0
    x = lax.bitcast_convert_type(lax.bitcast_convert_type(radius, np.uint32) ^ sign, np.float32) * cosine
    y = radius * sine
    return jnp.where(exchange, y, x), jnp.where(exchange, x, y)


def _log(u: Array) -> Array:
    """log u, for `u = 2^e (1 + x)` not subnormal. With XLA's own logarithm, the noise would be a tenth slower."""
    word = lax.bitcast_convert_type(u, np.int32) - ROOT_OF_HALF
    e = lax.shift_right_arithmetic(word, np.int32(23)).astype(np.float32)
    x = lax.bitcast_convert_type((word & np.int32(0x7FFFFF)) + ROOT_OF_HALF, np.float32) - np.float32(1)
    z = x * x
    return e * np.float32(math.log(2)) + (x - np.float32(0.5) * z + x * z * _polynomial(LOGARITHM, x))


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """The value of a polynomial at x, by Horner's rule. The coefficients start with the constant."""
    value: Any = np.float32(coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + np.float32(c)
    return jnp.asarray(value)


FROM_WORDS: dict[str, Callable[[Array, Array], Pair]] = {
    "uniform": lambda first, second: (_open_uniform(first), _open_uniform(second)),
    "normal": _box_muller,
}


def _once(word: Array, f: Callable[..., Array], *args: Array) -> Array:
    """`f(*args)`, computed once, even if several fused loops use it.

    XLA's CPU backend would repeat the computation, here 150 operations, in each of these loops. It never fuses a
    conditional, and it merges equal conditionals, e.g. those of two estimators with the same key. The second branch is
    never taken, but XLA does not know that. `word` may be any integer.
    """
    out = jax.eval_shape(f, *args)
    other = lambda word, *args: lax.broadcast(word.astype(out.dtype), out.shape)
    return lax.cond((word & 1) <= 1, lambda word, *args: f(*args), other, word, *args)


def _of_blocks(k0: Array, k1: Array, *, shape: Shape, kind: str, on_cpu: bool) -> Array:
    """The noise of each key: the first number of every block, and then the second number of every block."""
    keys, size, blocks = math.prod(k0.shape), math.prod(shape), -(-math.prod(shape) // 2)
    if not keys:
        return lax.full(_arranged(k0.shape, shape), np.float32(0))
    by_key = _keys_first(shape)
    of_keys, of_blocks = ((keys, 1), (1, blocks)) if by_key else ((1, keys), (blocks, 1))
    a, b, counters = k0.reshape(of_keys), k1.reshape(of_keys), lax.iota(np.uint32, blocks).reshape(of_blocks)

    def pairs(a: Array, b: Array) -> Pair:
        return FROM_WORDS[kind](*threefry2x32((a, b), counters))

    def joined(first: Array, second: Array) -> Array:
        return jnp.concatenate([first, second], 1 if by_key else 0)

    if on_cpu and keys * size <= SMALL:

        def each(words: Array) -> Array:
            place = lax.iota(np.uint32, 2 * blocks).reshape((1, -1) if by_key else (-1, 1))
            second = place >= np.uint32(blocks)
            own = words[:keys].reshape(of_keys), words[keys:].reshape(of_keys)
            of_first, of_second = FROM_WORDS[kind](
                *threefry2x32(own, jnp.where(second, place - np.uint32(blocks), place))
            )
            return jnp.where(second, of_second, of_first)

        # One argument: XLA sees that the two words of a key are the key, and need not be copied.
        words = lax.concatenate([k0.reshape(-1), k1.reshape(-1)], 0)
        numbers = _once(words[0], each, words)
    elif on_cpu:  # as one complex array, because a fused loop has only one output
        both = _once(a[0, 0], lambda a, b: lax.complex(*pairs(a, b)), a, b)
        numbers = _once(a[0, 0], lambda z: joined(lax.real(z), lax.imag(z)), both)
    else:  # fused with what uses it: on a GPU arithmetic costs less than memory access
        numbers = joined(*pairs(a, b))
    return (numbers[:, :size] if by_key else numbers[:size]).reshape(_arranged(k0.shape, shape))


def _elsewhere(k0: Array, k1: Array, *, shape: Shape, kind: str) -> Array:
    """The same kind of noise from `jax.random`, for other platforms."""
    keys = jax.random.wrap_key_data(jnp.stack([k0, k1], -1).reshape(-1, 2), impl="threefry2x32")
    make: Callable[[Array], Array] = {
        # Not jax.random.uniform, which comes closer to 0 than to 1: a quantile function may be infinite there.
        "uniform": lambda key: _open_uniform(jax.random.bits(key, shape, "uint32")),
        "normal": lambda key: jax.random.normal(key, shape, np.float32),
    }[kind]
    out_axis = 0 if _keys_first(shape) else len(shape)
    return jax.vmap(make, out_axes=out_axis)(keys).reshape(_arranged(k0.shape, shape))


def _keys_first(shape: Shape) -> bool:
    """Whether the keys are the first axes of the array, and not the last ones.

    XLA vectorises the last axis, both here and in whatever uses the noise, so the longer axis should be last.
    """
    return math.prod(shape) > 2 * FEW_BLOCKS


def _arranged(keys: Shape, shape: Shape) -> Shape:
    return (*keys, *shape) if _keys_first(shape) else (*shape, *keys)


# The noise is a primitive, for two reasons. Under `vmap`, JAX would compute both branches of the conditional and
# select; it must stay a conditional. And the platform is known only at lowering. The operands are integers, so it has
# no derivative.
_noise = Primitive("rgrad_noise")  # (the two words of each key) -> floats, with both shapes combined by `_arranged`
_jitted = jax.jit(_noise.bind, static_argnames=("shape", "kind"))


@_noise.def_impl
def _(k0, k1, *, shape, kind):  # type: ignore[no-untyped-def]
    with jax.disable_jit(False):  # one operation is compiled under `jax.disable_jit` too
        return _jitted(k0, k1, shape=shape, kind=kind)


mlir.register_lowering(_noise, mlir.lower_fun(_elsewhere, multiple_results=False))
for _platform in ("cpu", "cuda"):
    _rule = mlir.lower_fun(partial(_of_blocks, on_cpu=_platform == "cpu"), multiple_results=False)
    mlir.register_lowering(_noise, _rule, platform=_platform)


@_noise.def_abstract_eval
def _(k0, k1, *, shape, kind):  # type: ignore[no-untyped-def]
    arranged = _arranged(k0.shape, shape)
    sharding = NamedSharding(k0.sharding.mesh, PartitionSpec(*(None for _ in arranged)))
    # The rest of the type is that of the key: under shard_map the noise varies over the devices as the key does.
    return k0.update(shape=arranged, dtype=np.dtype(np.float32), weak_type=False, sharding=sharding)


def _batch(words, axes, **params):  # type: ignore[no-untyped-def]
    size = next(x.shape[axis] for x, axis in zip(words, axes, strict=True) if axis is not None)
    front = (
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(words, axes, strict=True)
    )  # fmt: skip
    return _noise.bind(*front, **params), 0 if _keys_first(params["shape"]) else len(params["shape"])


batching.primitive_batchers[_noise] = _batch
