"""Part b8: the setting `jax_debug_nans` off and on."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax

import rgrad
from tests.gpu.context import Context
from tests.gpu.judging import difference
from tests.gpu.post import post
from tests.gpu.problems import Square, both_estimators
from tests.gpu.truths import LOO, loc_only, square


def jobs(replicates: int) -> dict[str, Callable[[], Any]]:
    """Calls without a nan. They must give the same numbers with either setting."""
    key = jax.random.key(5)
    bits = lambda a: dist.Bernoulli(logits=a).to_event(1)
    of_bits = lambda a: rgrad.expect(lambda b: jnp.sum(b) ** 2, bits(a), key, 10, rgrad.enumerated)
    loss = lambda p, k: rgrad.expect(square, loc_only(p), k, 10)
    return {
        "measure": lambda: rgrad.measure(post(10), key, replicates)[1:3],
        "leave_one_out": lambda: jax.grad(lambda m: rgrad.expect(square, loc_only(m), key, 10, LOO))(2.0),
        "fit": lambda: rgrad.fit(loss, 2.0, optax.adam(0.1), key, 20)[:1],
        "enumerated": lambda: jax.grad(of_bits)(jnp.array([0.4, -0.3])),
        "sweep": lambda: rgrad.sweep(
            Square(), {"loc": [1.0, 2.0], "n": [10]}, both_estimators(), key=key, replicates=replicates
        ).moments()[1:3],
    }


def check_nans(ctx: Context) -> None:
    every = jobs(ctx.size(20_000, 1_000))
    for label in list(every)[: ctx.size(None, 2)]:
        if not ctx.enough(2, label):
            continue
        try:
            off = jax.device_get(every[label]())
            with jax.debug_nans(True):
                on = jax.device_get(every[label]())
        except Exception as error:
            ctx.failed(f"{label}: off and on", error)
            continue
        found = difference(off, on)
        ctx.check(f"{label}: off and on", found["largest"] <= 1e-6 * max(1.0, found["largest"]), **found)
    a_nan(ctx)


def a_nan(ctx: Context) -> None:
    """A nan of the user's objective raises if the setting is on. If it is off, it is counted and a warning says so."""
    broken = lambda key: jax.grad(lambda m: rgrad.expect(jnp.sqrt, loc_only(m), key, 10))(0.0)
    measure = lambda: rgrad.measure(broken, jax.random.key(0), 256)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counted = int(measure().nonfinite)
    said = any("draws are nan or infinite" in str(w.message) for w in caught)
    ctx.check("a nan, off: it is counted", counted > 0 and said, nonfinite=counted, warned=said)
    try:
        with jax.debug_nans(True):
            jax.block_until_ready(broken(jax.random.key(0)))
    except FloatingPointError as error:
        ctx.check("a nan, on: it raises", True, message=str(error)[:200])
    else:
        ctx.check("a nan, on: it raises", False)
