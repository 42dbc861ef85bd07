"""Part d2: the post's problem in plain JAX: all at once by jit(vmap(grad)), and streamed by lax.scan."""

import statistics
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.gpu.context import Context, seconds_of
from tests.gpu.measuring import speed_ups
from tests.gpu.post import THETA
from tests.gpu.report import named, say


def both_gradients(e: Any) -> tuple[Any, Any]:
    """The score-function and the reparameterized gradient, from n normals."""

    def path(theta: Any) -> Any:
        return jnp.mean((theta + e) ** 2)

    def score(theta: Any) -> Any:
        x = lax.stop_gradient(theta + e)
        return jnp.mean(x**2 * (-((x - theta) ** 2) / 2))

    return jax.grad(score)(THETA), jax.grad(path)(THETA)


def at_once(n: int, total: int) -> tuple[Any, int]:
    """The compiled program for this many draws at once, and the number of draws in a call."""
    rows = max(1, total // n)

    def run(key: Any) -> Any:
        g = jax.vmap(lambda k: both_gradients(jax.random.normal(k, (n,))))(jax.random.split(key, rows))
        return jax.tree.map(lambda x: (x.mean(), x.var()), g)

    return jax.jit(run).lower(jax.random.key(0)).compile(), rows * n


def streamed(n: int, total: int, turns: int) -> tuple[Any, int]:
    """The same for a loop with this many turns, each with one key."""
    rows = max(1, total // n)

    def run(key: Any) -> Any:
        def step(sums: Any, i: Any) -> Any:
            e = jax.random.normal(jax.random.fold_in(key, i), (rows, n))
            g = jax.tree.map(lambda x: x - 2 * THETA, jax.vmap(both_gradients)(e))
            return jax.tree.map(jnp.add, sums, jax.tree.map(lambda x: (x.sum(), (x * x).sum()), g)), None

        zeros = ((jnp.zeros(()),) * 2,) * 2
        return lax.scan(step, zeros, jnp.arange(turns))[0]

    return jax.jit(run).lower(jax.random.key(0)).compile(), rows * n * turns


def stock_rates(ctx: Context) -> None:
    turns = ctx.size(64, 4)
    plan: dict[str, tuple[str, Any]] = {}
    for n in ctx.size([1_000, 10, 100_000, 100], [1_000]):
        for power in ctx.size([24, 28, 31], [14]):
            plan[f"n = {n}, jit(vmap(grad)), 2^{power} at once"] = f"{n} vmap", partial(at_once, n, 2**power)
        for power in ctx.size([18, 22, 25], [14]):
            plan[f"n = {n}, lax.scan, 2^{power} a step"] = f"{n} scan", partial(streamed, n, 2**power, turns)
    labels, group = list(plan), max(2, 2 * ctx.workers)
    best: dict[str, Any] = {}
    while labels:
        now, labels = labels[:group], labels[group:]
        if ctx.left() < ctx.size(3, 1):
            ctx.skip(", ".join(now))
            continue
        built = ctx.in_threads({label: plan[label][1] for label in now})
        for label in now:
            program = built.pop(label, None)
            if program is None or not ctx.enough(1, label):
                continue
            try:
                if isinstance(program, BaseException):
                    raise program
                found = timed(*program)
            except Exception as error:  # e.g. too large for the memory
                ctx.row(label, error=named(error))
                continue
            ctx.row(label, **found)
            name = plan[label][0]
            if found["rate"] > best.get(name, {}).get("rate", 0):
                best[name] = {"rate": found["rate"], "how": label}
    ctx.note("best", speed_ups(ctx, best))
    for found in best.values():
        say(f"   {found['how']}: {found['rate']:.3g} draws/s")


def timed(run: Any, draws: int) -> dict[str, Any]:
    call = lambda seed: jax.block_until_ready(run(jax.random.key(seed)))
    call(0)
    times = [seconds_of(lambda i=i: call(i + 1))[0] for i in range(3)]
    return {"rate": draws / statistics.median(times), "seconds": times, "draws": draws}
