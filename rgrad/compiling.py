"""Programs compiled with options of XLA's that make them fast, which JAX takes for an outermost program alone."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, wraps
from typing import Any

import jax

# Of what is computed these change the order alone in which a call adds up its own samples: 8e-7 of a sum of 1e6 numbers.
OPTIONS = {
    "xla_cpu_prefer_vector_width": 512,  # where the CPU has AVX-512, and none of it otherwise
    # Sums where the summands are made: neither the library's, which are for long rows of what is in memory, nor those in
    # pieces of 32, which are not vectorised.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    "xla_disable_hlo_passes": "tree_reduction_rewriter",
}
ONE_CORE = {"xla_disable_hlo_passes": "tree_reduction_rewriter,cpu-parallel-task-assigner"}


def compiled(function: Callable[..., Any], static_argnames: Sequence[str]) -> Any:
    """`jax.jit(function)`, with `options()` where it is called with nothing traced around it, or under `vmap` alone."""
    within = jax.jit(function, static_argnames=static_argnames)

    @cache
    def outermost() -> Any:
        return jax.jit(function, static_argnames=static_argnames, compiler_options=options())

    @wraps(function)
    def call(*args: Any) -> Any:
        if _is_outermost():
            # JAX refuses options under `grad` too, and says so late. (A ValueError of the function's own comes again.)
            with suppress(ValueError):
                return outermost()(*args)
        return within(*args)

    call.outermost = outermost  # type: ignore[attr-defined]
    return call


@cache
def options(one_core: bool = False) -> dict[str, Any] | None:
    """For the compiler, where it takes them: `jax.jit(..., compiler_options=options())`.

    Args:
        one_core: no step of the program is shared between threads.
    """
    if jax.default_backend() != "cpu":
        return None
    wanted = OPTIONS | (ONE_CORE if one_core else {})
    if _empty_program(wanted):
        return wanted
    return {name: value for name, value in wanted.items() if _empty_program({name: value})} or None


def _empty_program(options: dict[str, Any] | None) -> Any:
    """None where this XLA has no such options."""
    program = jax.jit(lambda: None, compiler_options=options)
    try:
        program.lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return program


_probe = cache(lambda: _empty_program(options()))


def _is_outermost() -> bool:
    """Whether JAX runs what it is given now, and does not stage it for a program around it: there it refuses options."""
    try:
        _probe()()
    except ValueError:
        return False
    return True
