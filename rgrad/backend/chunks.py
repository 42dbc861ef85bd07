"""A computation under `vmap`, in chunks: its memory does not grow with the width of the `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

Tree = Any


def in_chunks(function: Callable[..., Tree], most: int, *arrays: Array) -> Tree:
    """`function(*arrays)`. Under any number of `vmap`s, at most `most` of its calls are made at once.

    Args:
        function: must not close over traced values.
    """

    @custom_vmap
    def single(*arrays: Array) -> Tree:
        return function(*arrays)

    @single.def_vmap
    def _(size: int, batched: Sequence[bool], *arrays: Array) -> tuple[Tree, Tree]:
        return _all_batched(_rows(function, most, batched, size)(*arrays))

    return single(*arrays)


def _rows(function: Callable[..., Tree], most: int, stacked: Sequence[bool], count: int) -> Callable[..., Tree]:
    """The function of `count` rows of the arrays that are stacked. The others are the same for all rows."""

    @custom_vmap
    def of_rows(*arrays: Array) -> Tree:
        of_all = [None if is_stacked else x for x, is_stacked in zip(arrays, stacked, strict=True)]

        def one(row: list[Array]) -> Tree:
            own = iter(row)
            return function(*(next(own) if x is None else x for x in of_all))

        rows = [x for x, is_stacked in zip(arrays, stacked, strict=True) if is_stacked]
        return map_in_chunks(one, rows, most)

    @of_rows.def_vmap
    def _(width: int, batched: Sequence[bool], *arrays: Array) -> tuple[Tree, Tree]:
        now = [a or b for a, b in zip(stacked, batched, strict=True)]

        def merged(x: Array, is_stacked: bool, is_batched: bool) -> Array:
            if not (is_stacked or is_batched):
                return x
            x = x if is_batched else x[None]
            x = x if is_stacked else x[:, None]
            return jnp.broadcast_to(x, (width, count, *x.shape[2:])).reshape(width * count, *x.shape[2:])

        found = _rows(function, most, now, width * count)(*map(merged, arrays, stacked, batched))
        return _all_batched(jax.tree.map(lambda x: x.reshape(width, count, *x.shape[1:]), found))

    return of_rows


def map_in_chunks(function: Callable[[Tree], Tree], rows: Tree, most: int) -> Tree:
    """`function` of each row of the arrays, at most `most` at once."""
    count = len(jax.tree.leaves(rows)[0])
    chunks = -(-count // most)
    if chunks == 1:
        return jax.vmap(function)(rows)
    size = -(-count // chunks)
    # The last chunk is filled up with copies of the first row.
    filled = lambda x: jnp.concatenate([x, *repeat(x[:1], chunks * size - count)]).reshape(chunks, size, *x.shape[1:])
    found = lax.map(jax.vmap(function), jax.tree.map(filled, rows))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def chunked(f: Callable[[Tree], Tree], most: int) -> Callable[[Tree], Tree]:
    """`f`. Under one `vmap`, at most `most` of its calls are made at once, and the backward pass makes them again.

    It must not be differentiated outside of that `vmap`.
    """

    @custom_vmap
    def of_one(x: Tree) -> Tree:
        return f(x)

    @of_one.def_vmap
    def _(size: int, batched: Any, x: Tree) -> tuple[Tree, Tree]:
        return _all_batched(map_in_chunks(jax.checkpoint(f), x, most))

    return of_one


def _all_batched(found: Tree) -> tuple[Tree, Tree]:
    return found, jax.tree.map(lambda _: True, found)
