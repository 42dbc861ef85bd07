"""How many replicates to make at once."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from rgrad.backend.compiling import size_of

IN_FLIGHT = 2**19  # the elements in the largest intermediate result of one batch: the fastest on CPU
# On a GPU even the smallest loop step takes 25 microseconds. In that time an H200 makes 4e6 normals.
IN_FLIGHT_ELSEWHERE = 2**26
IN_FLIGHT_TRACED = 2**22  # smaller, because an outer `vmap` multiplies it
MOST_WORK = 2**28  # the most elements that one batch may compute: this limits the waste of a batch larger than needed
MOST_WORK_ELSEWHERE = 2**33
IN_TURN = 8  # the replicates of a wide call that are made one after another, before they are added to the sums
WIDE = 2**13  # the elements from which a call is wide
MOST_IN_TURN = 2**25  # the most elements of such replicates together


def in_flight(device: Any = None) -> int:
    """How many elements the largest intermediate result of a batch should have on `device` (default: JAX's first).

    It is a power of two, and the same for devices with about the same memory, because the batch affects the last bits
    of the moments.
    """
    device = device or jax.devices()[0]
    if device.platform == "cpu":
        return IN_FLIGHT
    memory = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    # Each element in flight needs about 40 bytes of sums, and up to 150 bytes of other intermediate results.
    return 2 ** math.floor(math.log2(min(IN_FLIGHT_ELSEWHERE, memory / 256)))


def batch_for(draw: Callable[[Array], Any], key: Array, in_flight: int) -> int:
    """How many replicates to make at once: a power of two, at most 65536 on CPU."""
    return batch_of(*size_of(jax.jit(draw).trace(key).jaxpr.jaxpr), in_flight)


def batch_of(work: int, largest: int, in_flight: int) -> int:
    lanes, most_work = (2**16, MOST_WORK) if in_flight <= IN_FLIGHT else (2**24, MOST_WORK_ELSEWHERE)
    return 2 ** max(0, round(math.log2(min(lanes, in_flight / largest, most_work / work))))


def in_turn(call: Any, replicates: int) -> int:
    """The replicates that each step of a wide call adds to its sums, a power of two; 1 if the call is not wide.

    The sums are eleven arrays of the size of the call. To add one replicate at a time takes longer than to make it.

    Args:
        call: what the call returns, as `jax.ShapeDtypeStruct`s.
    """
    elements = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(call))
    if elements < WIDE:
        return 1
    most = min(IN_TURN, MOST_IN_TURN / elements, replicates / 4)  # so that at most a quarter is made in vain
    return 2 ** math.floor(math.log2(max(1, most)))
