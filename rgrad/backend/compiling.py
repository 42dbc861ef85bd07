"""Compiler options that make XLA correct and fast. JAX accepts options only for the outermost `jit`."""

import math
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.extend.core import Primitive, jaxprs_in_params
from jax.interpreters import ad, batching

from rgrad.backend.xla_flags import FLAG, warn_if_wrong

IN_CACHE = 2**16  # an intermediate result with this many elements fits into the private cache of one core

SHORT_SUMS = 2**17  # up to this many elements, one float32 accumulator per vector lane is accurate enough

OPTIONS = {
    # An empty list: the library mishandles broadcasts in every kind of operation (see xla_flags.py).
    FLAG: "",
    "xla_cpu_prefer_vector_width": 512,  # not XLA's default. It has no effect without AVX-512
}
PASSES = "xla_disable_hlo_passes"
# This pass splits sums into pieces of 32 elements, which are not vectorised. It keeps a sum of 1e9 elements accurate.
# It is therefore disabled only if no array has more than `SHORT_SUMS` elements. The relative error is then a few 1e-7.
IN_PIECES = "tree_reduction_rewriter"
# This pass splits each step between threads. For a small step, splitting takes longer than the step itself, and every
# step waits for the slowest thread.
SHARED = "cpu-parallel-task-assigner"


def jit_is_disabled() -> bool:
    """Whether the call is within `jax.disable_jit()`."""
    return bool(jax.config.jax_disable_jit)  # type: ignore[attr-defined]


def check_compiles(caller: str) -> None:
    """Raises an error under `jax.disable_jit`, for a function that must compile what it measures.

    Raises:
        ValueError: compilation is disabled.
    """
    if jit_is_disabled():
        raise ValueError(
            f"{caller}: it compiles what it measures, but jax.disable_jit is set; leave that context, or call your own "
            "function directly to debug it"
        )


_lanes = Primitive("rgrad_lanes")
_lanes.def_impl(lambda *arrays: 1)


def _batch(arrays, axes):  # type: ignore[no-untyped-def]
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    return size * _lanes.bind(*arrays), None


def _refuse(primals, tangents):  # type: ignore[no-untyped-def]
    raise ValueError("rgrad: not under grad")


batching.primitive_batchers[_lanes] = _batch
ad.primitive_jvps[_lanes] = _refuse


def lanes_around(*arrays: Any) -> int:
    """The total size of the `vmap` axes around the call, over which any of the arrays is mapped; 1 if there are none."""
    found: int = _lanes.bind(*(x for x in jax.tree.leaves(arrays) if isinstance(x, jax.Array)))
    return found


@cache
def options(one_core: bool = False, short_sums: bool = False) -> dict[str, Any] | None:
    """The compiler options for `jax.jit(..., compiler_options=options())`. None if XLA accepts none here.

    Args:
        one_core: whether to run every step of the program on one thread.
        short_sums: whether no sum in the program has more than `SHORT_SUMS` terms.
    """
    warn_if_wrong()
    if jax.default_backend() != "cpu":
        return None
    passes = ",".join([IN_PIECES] * short_sums + [SHARED] * one_core)
    wanted = OPTIONS | ({PASSES: passes} if passes else {})
    if _empty_program(wanted):
        return wanted
    return {name: value for name, value in wanted.items() if _empty_program({name: value})} or None


def compiler_options(*, small: bool = False) -> dict[str, Any]:
    """Options for `jax.jit(f, compiler_options=...)` with which XLA is correct on CPU, and uses all of AVX-512.

    rgrad compiles its own programs with them (`measure`, `sweep`, `fit`, `compare`, ...). But JAX takes options only for
    the outermost `jit`. So a `measure` inside your own `jax.jit` needs them there. On a CPU without AVX-512 they make no
    difference to the speed.

    Args:
        small: for a loop of small steps, in which no array has more than 131,072 elements. The program then runs on one
            thread, and sums are vectorised. Steps do not wait for one another, but the other cores are free: use it if
            a step takes microseconds, or for several programs at once, each in a thread of your own.

    Returns:
        A dict. It is empty on other platforms, and if this version of XLA does not know the options.

    Example:
        >>> draw = lambda key: jax.grad(lambda t: rgrad.expect(jnp.square, dist.Normal(t, 1.0), key, 100))(2.0)
        >>> moments = lambda key: rgrad.measure(draw, key, 1000)
        >>> fast = jax.jit(moments, compiler_options=rgrad.compiler_options())
        >>> print(f"{fast(key).mean:.1f}")
        4.0
    """
    return dict(options(one_core=small, short_sums=small) or {})


@cache
def right() -> dict[str, Any] | None:
    """Only the option that makes results correct, for programs that run once or whose usual speed is measured."""
    warn_if_wrong()
    wanted = {FLAG: OPTIONS[FLAG]}
    return wanted if jax.default_backend() == "cpu" and _empty_program(wanted) else None


def _empty_program(options: dict[str, Any] | None) -> Any:
    """An empty program, compiled with `options`. None if this version of XLA does not know them."""
    program = jax.jit(lambda: None, compiler_options=options)
    try:
        program.lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return program


_probe = cache(lambda: _empty_program(options()))


def takes_options() -> bool:
    """Whether there are options and JAX accepts them here. It refuses them while it traces an outer `jit`."""
    if options() is None:
        return False
    try:
        _probe()()
    except ValueError:
        return False
    return True


# A cache of `size_of`. The keys are weak, so that it keeps no jaxpr alive.
_sizes: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()


def size_of(jaxpr: Any) -> tuple[int, int]:
    """The number of elements that the steps of a jaxpr produce (a scan repeats its own), and the largest size."""
    if jaxpr not in _sizes:
        work, largest = 1, 1
        for eqn in jaxpr.eqns:
            sizes = [math.prod(v.aval.shape) for v in eqn.outvars if hasattr(v.aval, "shape")]
            inner = [size_of(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(eqn.params)]
            work += sum(sizes) + eqn.params.get("length", 1) * sum(w for w, _ in inner)
            largest = max([largest, *sizes, *(size for _, size in inner)])
        _sizes[jaxpr] = work, largest
    return _sizes[jaxpr]
