"""Compiled programs of functions that take functions. A program lives as long as the function that it was made for."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from inspect import signature
from threading import Lock
from types import MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakMethod, ref

import jax

from rgrad.backend.compiling import IN_CACHE, jit_is_disabled, lanes_around, options, size_of, takes_options

MOST = 16  # the programs that are kept for one function, e.g. one for each optimizer with which it is fitted


class Always(NamedTuple):
    """A strong reference, called like a weak one."""

    value: Any
    kind: type

    def __call__(self) -> Any:
        return self.value


class Jitted:
    """`jax.jit` of a function whose static arguments are bound, by weak references if possible."""

    def __init__(self, function: Callable[..., Any], static: Sequence[int], references: Sequence[Any]):
        def program(*arrays: Any) -> Any:
            own, given = iter(references), iter(arrays)
            count = len(references) + len(arrays)
            return function(*(next(own)() if i in static else next(given) for i in range(count)))

        program.__name__ = function.__name__  # for JAX's logs and profiles
        self._within = jax.jit(program)
        self.with_options = cache(lambda **chosen: jax.jit(program, compiler_options=options(**chosen)))
        """Maps the arguments of `options` to the function, jitted with them."""

    def __call__(self, *arrays: Any) -> Any:
        """Uses `options()` if the call is under no JAX transformation other than `vmap`."""
        if takes_options():
            _, largest = size_of(self._within.trace(*arrays).jaxpr.jaxpr)
            # A ValueError means that the call is under `grad`, where JAX accepts no options. If the function itself
            # raised it, the call below raises it again.
            with suppress(ValueError):
                small = largest * lanes_around(*arrays) <= IN_CACHE
                return self.with_options(one_core=small, short_sums=small)(*arrays)
        return self._within(*arrays)


class Compiled:
    """See `compiled`."""

    def __init__(self, function: Callable[..., Any], static_argnames: Sequence[str]):
        names = list(signature(function).parameters) if static_argnames else []
        self._function, self._static = function, [names.index(name) for name in static_argnames]
        self._kept: WeakKeyDictionary[Any, dict[Any, Jitted]] = WeakKeyDictionary()
        self._own = Jitted(function, (), ())
        self._lock = Lock()

    def __call__(self, *args: Any) -> Any:
        if jit_is_disabled():
            return self._function(*args)
        static = [args[i] for i in self._static]
        return self.of(*static)(*(x for i, x in enumerate(args) if i not in self._static))

    def of(self, *static: Any) -> Jitted:
        """The program of these static arguments, in the order of `static_argnames`."""
        if not static:
            return self._own
        places = sorted(self._static)
        references = [reference(static[self._static.index(i)]) for i in places]
        try:
            key = tuple(references)
            with self._lock:
                mine = self._kept.setdefault(getattr(static[0], "__self__", static[0]), {})
                if key not in mine:
                    while len(mine) >= MOST:
                        del mine[next(iter(mine))]
                    mine[key] = Jitted(self._function, places, references)
                return mine[key]
        except TypeError:  # it is not hashable, or cannot be referenced weakly
            return Jitted(self._function, places, [Always(static[self._static.index(i)], object) for i in places])


def compiled(function: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Compiled:
    """`jax.jit(function)`, compiled with `options()` if the call is under no JAX transformation other than `vmap`.

    Args:
        function: called with positional arguments only.
        static_argnames: names of arguments that are not arrays. The first of them is a function, to which the programs
            belong: they are freed with it, and hold neither it nor other functions that are static arguments.
            (`jax.jit` keeps a static argument, and all that it closes over, forever.)
    """
    return Compiled(function, static_argnames)


def reference(x: Any) -> Any:
    """A reference to `x` that compares like it: a weak one if `x` is a function or another object that allows it."""
    if isinstance(x, MethodType):
        return WeakMethod(x)
    if callable(x) and not isinstance(x, type):
        with suppress(TypeError):
            return ref(x)
    return Always(x, type(x))
