"""Compile programs with options that make XLA right and fast. JAX accepts options only for the outermost program."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, wraps
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.extend.core import Primitive, jaxprs_in_params
from jax.interpreters import ad, batching

from rgrad.backend.xla_flags import FLAG, warn_if_wrong

IN_CACHE = 2**16  # the numbers of an intermediate result that fit into the private cache of one core

SHORT_SUMS = 2**17  # up to this many numbers, one float32 accumulator per vector lane is accurate enough

OPTIONS = {
    # An empty list: the default library gets broadcasts wrong for every kind of operation (see xla_flags.py).
    FLAG: "",
    "xla_cpu_prefer_vector_width": 512,  # XLA does not choose this itself. It has no effect without AVX-512
}
PASSES = "xla_disable_hlo_passes"
# This pass splits sums into pieces of 32 numbers, which are not vectorised. It keeps a sum of 1e9 numbers accurate. So
# it is disabled only if a call has at most `SHORT_SUMS` numbers. The relative error is then a few 1e-7.
IN_PIECES = "tree_reduction_rewriter"
# This pass shares each step between threads. For a small step, sharing takes longer than the step itself, and every
# step waits for the slowest thread.
SHARED = "cpu-parallel-task-assigner"


def compiled(function: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Any:
    """Return `jax.jit(function)`, compiled with `options()` if nothing but `vmap` is being traced around the call."""
    within = jax.jit(function, static_argnames=static_argnames)

    @cache
    def outermost(small: bool) -> Any:
        chosen = options(one_core=small, short_sums=small)
        return jax.jit(function, static_argnames=static_argnames, compiler_options=chosen)

    @wraps(function)
    def call(*args: Any) -> Any:
        if _takes_options():
            _, largest = size_of(within.trace(*args).jaxpr.jaxpr)
            arrays = [x for x in jax.tree.leaves(args) if isinstance(x, jax.Array)]
            # A ValueError means that the call is under `grad`, where JAX accepts no options. If the function itself
            # raised it, the call below raises it again.
            with suppress(ValueError):
                return outermost(small=largest * _lanes.bind(*arrays) <= IN_CACHE)(*args)
        return within(*args)

    return call


# Arrays -> the total size of the `vmap` axes around this call; 1 if there are none.
_lanes = Primitive("rgrad_lanes")
_lanes.def_impl(lambda *arrays: 1)


def _batch(arrays, axes):  # type: ignore[no-untyped-def]
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    return size * _lanes.bind(*arrays), None


def _refuse(primals, tangents):  # type: ignore[no-untyped-def]
    raise ValueError("rgrad: not under grad")


batching.primitive_batchers[_lanes] = _batch
ad.primitive_jvps[_lanes] = _refuse


@cache
def options(one_core: bool = False, short_sums: bool = False) -> dict[str, Any] | None:
    """Return the compiler options, for `jax.jit(..., compiler_options=options())`; None if XLA accepts none here.

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


@cache
def right() -> dict[str, Any] | None:
    """Return only the option that makes programs right: for those that run once, or whose usual speed is measured."""
    warn_if_wrong()
    wanted = {FLAG: OPTIONS[FLAG]}
    return wanted if jax.default_backend() == "cpu" and _empty_program(wanted) else None


def _empty_program(options: dict[str, Any] | None) -> Any:
    """Compile an empty program with `options`. Return None if this version of XLA does not know them."""
    program = jax.jit(lambda: None, compiler_options=options)
    try:
        program.lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return program


_probe = cache(lambda: _empty_program(options()))


def _takes_options() -> bool:
    """Return whether options exist and JAX accepts them now. It refuses them while it traces an outer program."""
    if options() is None:
        return False
    try:
        _probe()()
    except ValueError:
        return False
    return True


# The sizes of the programs that JAX keeps.
_sizes: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()


def size_of(jaxpr: Any) -> tuple[int, int]:
    """Return how many numbers all steps of a program produce (a scan repeats its steps), and the largest size."""
    if jaxpr not in _sizes:
        work, largest = 1, 1
        for eqn in jaxpr.eqns:
            sizes = [math.prod(v.aval.shape) for v in eqn.outvars if hasattr(v.aval, "shape")]
            inner = [size_of(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(eqn.params)]
            work += sum(sizes) + eqn.params.get("length", 1) * sum(w for w, _ in inner)
            largest = max([largest, *sizes, *(size for _, size in inner)])
        _sizes[jaxpr] = work, largest
    return _sizes[jaxpr]
