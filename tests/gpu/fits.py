"""Part d5: steps per second of many fits at once, with rgrad and with a loop of plain JAX that checks nothing."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import rgrad
from tests.gpu.context import Context, seconds_of
from tests.gpu.problems import fits, fitted_right
from tests.gpu.report import say


def stock_fits(count: int, steps: int) -> Callable[[int], dict[str, float]]:
    """The fits of `problems.fits` in plain JAX and optax."""
    optimizer = optax.adam(0.05)

    def loss(params: Any, key: Any) -> Any:
        mu, log_sigma = params
        y = mu[:, None] + jnp.exp(log_sigma)[:, None] * jax.random.normal(key, (count, 10))
        return ((y - 3.0) ** 2 / 8).mean(1).sum() - log_sigma.sum()

    @jax.jit
    def run(key: Any) -> Any:
        def step(carry: Any, t: Any) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, jax.random.fold_in(key, t)), state)
            return (optax.apply_updates(params, updates), state), None

        start = (jnp.zeros(count),) * 2
        return lax.scan(step, (start, optimizer.init(start)), jnp.arange(steps))[0][0]

    def job(seed: int) -> dict[str, float]:
        mu, log_sigma = jax.device_get(run(jax.random.key(seed)))
        return {"mu": float(np.median(mu)), "sigma": float(np.exp(np.median(log_sigma)))}

    return job


def fit_rates(ctx: Context) -> None:
    count, steps = ctx.size((1_000, 2_000), (50, 300))
    jobs = {
        "rgrad, reparameterized": fits(count, steps, False),
        "stock JAX and optax, reparameterized": stock_fits(count, steps),
        "rgrad, score_function": fits(count, steps, False, rgrad.score_function),
        "rgrad, reparameterized, with its trace": fits(count, steps, True),
    }
    for name in list(jobs)[: ctx.size(None, 2)]:
        if not ctx.enough(3, name):
            continue
        job = jobs[name]
        try:
            first, found = seconds_of(lambda job=job: job(0))
            times = [seconds_of(lambda i=i, job=job: job(1 + i))[0] for i in range(3 if first < 5 else 1)]
        except Exception as error:
            ctx.failed(name, error)
            continue
        took = statistics.median(times)
        found |= {"rate": count * steps / took, "seconds a step": took / steps}
        ctx.row(name, **{"first call in seconds": first, "seconds": times}, **found)
        ctx.check(name, fitted_right(found, 0.2), mu=found["mu"], sigma=found["sigma"])
        say(f"   {name}: {found['rate']:.3g} steps/s, {took / steps * 1e6:.1f} us a step; first call {first:.1f} s")
