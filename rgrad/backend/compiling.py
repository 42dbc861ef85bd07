"""Programs compiled with options that make XLA right and fast. JAX takes them for an outermost program only."""

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

IN_CACHE = 2**16  # how many numbers of an intermediate result fit into what a core has for itself

SHORT_SUMS = 2**17  # numbers of one call up to which one float32 accumulator for each vector lane is exact enough

OPTIONS = {
    # An empty list: the library that is the default gets broadcasts wrong (see xla_flags.py), whatever it is given to do.
    FLAG: "",
    "xla_cpu_prefer_vector_width": 512,  # only used if the CPU has AVX-512, and XLA does not choose it
}
PASSES = "xla_disable_hlo_passes"
# Sums in pieces of 32 numbers are not vectorised. They are what keeps a sum of 1e9 numbers exact, so they stay if a call
# has more than `SHORT_SUMS` numbers. Below, the relative error of a sum without them is a few 1e-7.
IN_PIECES = "tree_reduction_rewriter"
# No step is shared between threads, which takes longer than a small step does, and makes each wait for the slowest of them.
SHARED = "cpu-parallel-task-assigner"


def compiled(function: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Any:
    """`jax.jit(function)`, with `options()` where it is called with nothing traced around it, or under `vmap` alone."""
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
            # A ValueError says that this is under `grad`, where JAX takes none; one of the function's own comes again.
            with suppress(ValueError):
                return outermost(small=largest * _lanes.bind(*arrays) <= IN_CACHE)(*args)
        return within(*args)

    return call


# Arrays -> over how many of them a `vmap` around this goes, all of them together; 1 where there is none.
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
    """For the compiler, where it takes them: `jax.jit(..., compiler_options=options())`.

    Args:
        one_core: no step of the program is shared between threads.
        short_sums: no sum in the program has more than `SHORT_SUMS` terms.
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
    """Only the option that makes a program right, for programs that are run once or whose usual speed is what is measured."""
    warn_if_wrong()
    wanted = {FLAG: OPTIONS[FLAG]}
    return wanted if jax.default_backend() == "cpu" and _empty_program(wanted) else None


def _empty_program(options: dict[str, Any] | None) -> Any:
    """None where this XLA has no such options."""
    program = jax.jit(lambda: None, compiler_options=options)
    try:
        program.lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return program


_probe = cache(lambda: _empty_program(options()))


def _takes_options() -> bool:
    """Whether there are any, and JAX runs now what it is given. Where it stages that for a program around, it refuses them."""
    if options() is None:
        return False
    try:
        _probe()()
    except ValueError:
        return False
    return True


# Of the programs that JAX keeps.
_sizes: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()


def size_of(jaxpr: Any) -> tuple[int, int]:
    """How many numbers the steps of a program produce (those of a scan as often as it goes round), and the largest."""
    if jaxpr not in _sizes:
        work, largest = 1, 1
        for eqn in jaxpr.eqns:
            sizes = [math.prod(v.aval.shape) for v in eqn.outvars if hasattr(v.aval, "shape")]
            inner = [size_of(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(eqn.params)]
            work += sum(sizes) + eqn.params.get("length", 1) * sum(w for w, _ in inner)
            largest = max([largest, *sizes, *(size for _, size in inner)])
        _sizes[jaxpr] = work, largest
    return _sizes[jaxpr]
