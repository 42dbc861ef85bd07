"""Standard uniform and normal noise from a key. It is as good as that of `jax.random`, and several times faster on CPU.

The bits are those of `jax.random` (threefry2x32, Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405): `bits`
and `fold_in` return exactly what its own functions return. Three things make the noise faster:

- The twenty rounds are written out. XLA fuses them, and whatever uses the noise, into one vectorised loop. On CPU,
  `jax.random` loops over arrays.
- Each block gives two words, and both are used. `jax.random` takes their exclusive or.
- The Box-Muller transform turns two words into two normals, with short polynomials. `jax.random` inverts the
  distribution function. The transform starts from 32 bits, so tails are right up to |e| = 6.7. They end there, which
  cuts off a probability of 1e-11.

NVIDIA GPUs give the same numbers up to rounding, with the loops arranged differently. On other platforms, for other
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
FEW_BLOCKS = 15  # the vectorised inner loop runs over keys up to this many blocks, and over blocks beyond


def threefry2x32(key: Pair, counter: Array) -> Pair:
    """Encrypt: return two words for each key of two words and each counter below 2^32. Shapes broadcast."""
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    x0, x1 = schedule[0], counter + schedule[1]  # the counter's high word is 0
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ (lax.shift_left(x1, np.uint32(r)) | lax.shift_right_logical(x1, np.uint32(32 - r)))
        x0, x1 = x0 + schedule[(i + 1) % 3], x1 + (schedule[(i + 2) % 3] + np.uint32(i + 1))
    return x0, x1


def bits(key: Array, shape: Shape = ()) -> Array:
    """Return what `jax.random.bits(key, shape, "uint32")` returns, bit for bit."""
    if not is_ours(key, math.prod(shape)):
        return jax.random.bits(key, shape, "uint32")
    first, second = threefry2x32(_words_of(key), lax.iota(np.uint32, math.prod(shape)))
    return (first ^ second).reshape(shape)


def fold_in(key: Array, data: Any) -> Array:
    """Return what `jax.random.fold_in(key, data)` returns, bit for bit."""
    if not is_ours(key):
        return jax.random.fold_in(key, data)
    first, second = threefry2x32(_words_of(key), jnp.asarray(data, np.uint32))
    words = lax.concatenate([first[None], second[None]], 0)  # XLA sees through this, but not through a stack
    return (
        jax.random.wrap_key_data(words, impl="threefry2x32")
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        else words
    )


def uniform(key: Array, shape: Shape = (), dtype: Any = float) -> Array:
    """Return uniform noise on the open interval (0, 1): odd multiples of 2^-24, symmetric about 1/2."""
    if not is_ours(key, math.prod(shape), dtype):
        return jax.random.uniform(key, shape, dtype, minval=jnp.finfo(jax.dtypes.canonicalize_dtype(dtype)).tiny)
    return _noise.bind(*_words_of(key), shape=shape, kind="uniform")


def normal(key: Array, shape: Shape = (), dtype: Any = float) -> Array:
    """Return standard normal noise, |e| <= 6.77."""
    if not is_ours(key, math.prod(shape), dtype):
        return jax.random.normal(key, shape, dtype)
    return _noise.bind(*_words_of(key), shape=shape, kind="normal")


def is_ours(key: Array, size: int = 1, dtype: Any = np.float32) -> bool:
    """Return whether this module makes the noise. As in jax >= 0.5, each of fewer than 2^32 numbers has a counter."""
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
    """Return two normals, `sqrt(-2 log u) (cos a, sin a)`.

    u is the first word. The low 30 bits of the second word are an angle between -pi/4 and pi/4. Its high two bits
    choose the quarter of the circle: one exchanges cosine and sine, the other is the sign of the cosine.

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
    """Return log u of a normal float `u = 2^e (1 + x)`. XLA's own would make the noise a tenth slower."""
    word = lax.bitcast_convert_type(u, np.int32) - ROOT_OF_HALF
    e = lax.shift_right_arithmetic(word, np.int32(23)).astype(np.float32)
    x = lax.bitcast_convert_type((word & np.int32(0x7FFFFF)) + ROOT_OF_HALF, np.float32) - np.float32(1)
    z = x * x
    return e * np.float32(math.log(2)) + (x - np.float32(0.5) * z + x * z * _polynomial(LOGARITHM, x))


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """Evaluate a polynomial by Horner's rule. The coefficients start with the constant."""
    value: Any = np.float32(coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + np.float32(c)
    return jnp.asarray(value)


FROM_WORDS: dict[str, Callable[[Array, Array], Pair]] = {
    "uniform": lambda first, second: (_open_uniform(first), _open_uniform(second)),
    "normal": _box_muller,
}


def _once(word: Array, f: Callable[..., Array], *args: Array) -> Array:
    """Return `f(*args)`, computed once. XLA's CPU backend repeats a fused computation at each use: here 150 operations.

    XLA never fuses a conditional. It also merges two equal ones, such as those of two estimators with the same key. The
    other branch is never taken, but XLA does not know that. `word` may be any number.
    """
    out = jax.eval_shape(f, *args)
    other = lambda word, *args: lax.broadcast(word.astype(out.dtype), out.shape)
    return lax.cond((word & 1) <= 1, lambda word, *args: f(*args), other, word, *args)


def _of_blocks(k0: Array, k1: Array, *, shape: Shape, kind: str, on_cpu: bool) -> Array:
    """Return the noise of each key: first one number from every block, and then the other."""
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

    if on_cpu:  # through one complex array, because a fused loop has only one result
        both = _once(a[0, 0], lambda a, b: lax.complex(*pairs(a, b)), a, b)
        numbers = _once(a[0, 0], lambda z: joined(lax.real(z), lax.imag(z)), both)
    else:  # fused with what uses it: on a GPU arithmetic costs less than memory access
        numbers = joined(*pairs(a, b))
    return (numbers[:, :size] if by_key else numbers[:size]).reshape(_arranged(k0.shape, shape))


def _elsewhere(k0: Array, k1: Array, *, shape: Shape, kind: str) -> Array:
    """Return the same kind of noise from `jax.random`."""
    keys = jax.random.wrap_key_data(jnp.stack([k0, k1], -1).reshape(-1, 2), impl="threefry2x32")
    make: Callable[[Array], Array] = {
        # Not jax.random.uniform, which comes closer to 0 than to 1: a quantile function may be infinite there.
        "uniform": lambda key: _open_uniform(jax.random.bits(key, shape, "uint32")),
        "normal": lambda key: jax.random.normal(key, shape, np.float32),
    }[kind]
    out_axis = 0 if _keys_first(shape) else len(shape)
    return jax.vmap(make, out_axes=out_axis)(keys).reshape(_arranged(k0.shape, shape))


def _keys_first(shape: Shape) -> bool:
    """Return whether each row holds the noise of one key. If that is short, each row runs over the keys instead.

    XLA vectorises the last axis, both here and in whatever uses the noise.
    """
    return math.prod(shape) > 2 * FEW_BLOCKS


def _arranged(keys: Shape, shape: Shape) -> Shape:
    return (*keys, *shape) if _keys_first(shape) else (*shape, *keys)


# A primitive, for two reasons. The conditional must stay a conditional under `vmap`, which would compute both branches
# and select. And the platform is known only at lowering. Its operands are integers, so it has no derivative.
_noise = Primitive("rgrad_noise")  # (the two words of each key) -> floats, with both shapes combined by `_arranged`
_noise.def_impl(jax.jit(_noise.bind, static_argnames=("shape", "kind")))
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
