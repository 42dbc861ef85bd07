"""The cost of one gradient estimate: its operations, and a program that makes many estimates and can be timed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import jaxpr_as_fun, jaxprs_in_params

from rgrad.backend.compiling import right, size_of
from rgrad.measurement.batches import MOST_WORK, in_flight
from rgrad.tracing.traced import depend

MOST_LANES = 2**12  # calls made at once: enough to make the cost of starting a program negligible
MOST_NUMBERS = 2**22  # the most elements in all gradients made at once


class Program(NamedTuple):
    """A compiled gradient estimate, made `lanes` times at once."""

    run: Callable[[Any, Array], Array]
    """`(parameters, keys) -> estimates`, shape `(lanes, coordinates)`. Both arguments have a leading axis `lanes`."""
    lanes: int
    parameters: Any
    operations: float
    """The operations of one call; see `compile_many`."""
    constant: bool
    """Whether the estimate does not depend on the key. Then there is no sampling, and its variance is 0."""


def compile_many(gradient: Callable[[Any, Array], Array], parameters: Any, key: Array) -> Program:
    """The program that makes many gradient estimates at once, and the cost of one of them.

    Every call has its own copy of the parameters. Otherwise the compiler could share work between calls that a user
    pays for in each call (a sum over a support, a Cholesky factor).

    The operations are those that XLA counts (`cost_analysis`: flops and transcendentals, each as one operation). XLA
    counts the body of a scan once; here it is counted once per iteration. A loop with an unknown number of iterations
    (the rejection samplers of Gamma and Poisson) counts as one iteration.

    Args:
        gradient: maps parameters and a key to one estimate, of shape `(coordinates,)`.
    """
    closed = jax.make_jaxpr(gradient)(parameters, key)
    lanes = lanes_for(closed)
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (lanes, *jnp.shape(a))), parameters)
    traced = jax.jit(jax.vmap(gradient)).trace(stacked, keys_for(key, np.uint32(0), np.uint32(0), lanes))
    compiled = traced.lower().compile(compiler_options=right())
    total = _counted(compiled) + _further_rounds(traced.jaxpr.jaxpr)
    of_key = [False] * (len(closed.in_avals) - len(jax.tree.leaves(key))) + [True] * len(jax.tree.leaves(key))
    return Program(compiled, lanes, stacked, total / lanes, not any(depend(closed.jaxpr, of_key)))


def lanes_for(closed: Any) -> int:
    """How many calls of a program, given as a closed jaxpr, are made at once: a power of two."""
    work, largest = size_of(closed.jaxpr)
    most = min(
        MOST_LANES, MOST_NUMBERS / max(1, closed.out_avals[0].size), MOST_WORK / 64 / work, in_flight() / largest
    )
    return int(2 ** max(0, round(math.log2(most))))


@partial(jax.jit, static_argnames="count")
def keys_for(key: Array, high: Array, low: Array, count: int) -> Array:
    """The keys of `count` calls, from the number (high, low) on. Each depends only on `key` and its own number."""
    prefix = jax.random.fold_in(key, high)
    return jax.vmap(jax.random.fold_in, (None, 0))(prefix, jnp.arange(count, dtype=jnp.uint32) + low)


def _counted(compiled: Any) -> float:
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return float(found.get("flops", 0.0)) + float(found.get("transcendentals", 0.0))


def _further_rounds(jaxpr: Any) -> float:
    """The operations of all scans in a program, in every iteration but the first."""
    total = 0.0
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            body: Any = getattr(inner, "jaxpr", inner)
            rounds = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            nested = _further_rounds(body)
            if rounds > 1:
                arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in body.invars]
                compiled = (
                    jax.jit(jaxpr_as_fun(eqn.params["jaxpr"])).lower(*arguments).compile(compiler_options=right())
                )
                nested += (rounds - 1) * (_counted(compiled) + nested)
            total += nested
    return total
