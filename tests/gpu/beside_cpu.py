"""Part b4: the same keys on the accelerator and on the CPU of this process."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import rgrad
from tests.gpu.context import Context
from tests.gpu.judging import difference
from tests.gpu.post import post, post_errors, right
from tests.gpu.report import say, short

N = 100
EQUAL, CLOSE, NOTED = "equal", "close", "noted"
MOST = 2e-5  # relative to the largest number, for what is close

Draw = Callable[[Any], Any]


def gradient(estimator: Any, wrap: Any = lambda q: q) -> Draw:
    of = lambda key: lambda p: rgrad.expect(lambda x: x**2, wrap(dist.Normal(p[0], p[1])), key, N, estimator)
    return lambda key: jax.grad(of(key))((2.0, 1.0))


def of_bits(estimator: Any) -> Draw:
    f = lambda b: (jnp.sum(b) - 0.3) ** 2
    of = lambda key: lambda a: rgrad.expect(f, dist.Bernoulli(logits=a).to_event(1), key, N, estimator)
    return lambda key: jax.grad(of(key))(jnp.array([0.4, -0.3, 0.8]))


def items() -> dict[str, tuple[str, Draw]]:
    """What is compared, and how close it must be. A draw that branches on its noise may differ: it is only noted."""
    gamma = lambda k: jax.grad(lambda a: rgrad.expect(lambda x: x**2, dist.Gamma(a, 1.0), k, N))(3.0)
    return {
        "noise.bits": (EQUAL, lambda k: rgrad.noise.bits(k, (1000,))),
        "noise.normal": (CLOSE, lambda k: rgrad.noise.normal(k, (1000,))),
        "score_function": (CLOSE, gradient(rgrad.score_function)),
        "bits: enumerated": (CLOSE, of_bits(rgrad.enumerated)),
        "noise.fold_in": (
            EQUAL,
            lambda k: jax.random.key_data(jax.vmap(partial(rgrad.noise.fold_in, k))(jnp.arange(100))),
        ),
        "noise.uniform": (CLOSE, lambda k: rgrad.noise.uniform(k, (1000,))),
        "jax.random.normal": (CLOSE, lambda k: jax.random.normal(k, (1000,))),
        "reparameterized": (CLOSE, gradient(rgrad.reparameterized)),
        "reparameterized, jax_random": (CLOSE, gradient(rgrad.reparameterized, rgrad.jax_random)),
        "score_function, jax_random": (CLOSE, gradient(rgrad.score_function, rgrad.jax_random)),
        "measure_valued": (NOTED, gradient(rgrad.measure_valued)),
        "bits: score_function": (NOTED, of_bits(rgrad.score_function)),
        "bits: disarm": (NOTED, of_bits(rgrad.disarm)),
        "bits: rebar": (NOTED, of_bits(rgrad.rebar)),
        "Gamma": (NOTED, gamma),
    }


def both(expected: str, f: Draw) -> tuple[bool, dict[str, Any]]:
    there = jax.device_get(jax.jit(f)(jax.random.key(7)))
    with jax.default_device(jax.devices("cpu")[0]):
        here = jax.device_get(jax.jit(lambda k: f(k))(jax.random.key(7)))
    found = difference(there, here)
    ok = {EQUAL: found["largest"] == 0, CLOSE: found["relative"] < MOST}.get(expected, True)
    return ok, {"expected": expected} | found


def check_beside_cpu(ctx: Context) -> None:
    def measured() -> tuple[bool, dict[str, Any]]:
        with jax.default_device(jax.devices("cpu")[0]):
            found = post_errors(rgrad.measure(post(10), jax.random.key(3), ctx.size(20_000, 2_000)), 10)
        return right(found), found | {"device": "cpu", "chip": "cpu"}

    jobs: dict[str, Any] = {name: partial(both, *item) for name, item in list(items().items())[: ctx.size(None, 4)]}
    ctx.checks_in_threads(jobs | {"measure on the CPU, in this process": measured})
    largest = {name: c["largest"] for name, c in ctx.mine["checks"].items() if "largest" in c}
    say("   largest differences: " + "; ".join(f"{name} {short(value)}" for name, value in largest.items()))
