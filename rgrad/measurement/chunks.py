"""A computation under `vmap` in chunks, so that its memory does not grow with the width of the `vmap`."""

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

        chunks = -(-count // most)
        size = -(-count // chunks)
        # The last chunk is filled up with copies of the first row.
        filled = lambda x: jnp.concatenate([x, *repeat(x[:1], chunks * size - count)]).reshape(
            chunks, size, *x.shape[1:]
        )
        rows = [filled(x) for x, is_stacked in zip(arrays, stacked, strict=True) if is_stacked]
        found = lax.map(jax.vmap(one), rows) if chunks > 1 else jax.vmap(one)([x[0] for x in rows])
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found) if chunks > 1 else found

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


def _all_batched(found: Tree) -> tuple[Tree, Tree]:
    return found, jax.tree.map(lambda _: True, found)
