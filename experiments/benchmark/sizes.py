"""The section `measuring` of `experiments.benchmark`: large gradients, many settings, many samples."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array

import rgrad
from experiments.benchmark.models import named
from experiments.benchmark.rivals import OURS, WrongResult
from experiments.benchmark.study import Row, compared, in_turn, seconds_of
from experiments.common.progress import Advance

WIDTHS = {1_000: 22, 100_000: 224, 1_000_000: 707, 10_000_000: 2_236}  # of the two layers, by the number of parameters
CALLS = {1_000: 8_192, 100_000: 512, 1_000_000: 64, 10_000_000: 8}  # gradients of the network in one turn
SETTINGS, REPLICATES = 1_000, 400  # measured under vmap
BOUND = 300_000  # samples of the bound
SAMPLES, CHUNK = 2**17, 2**13


class SizeTask(NamedTuple):
    """Two ways to compute the same number, and how much of it."""

    ours: Callable[[Array], Any]
    other: Callable[[Array], Any]
    name: str
    amount: int
    """What is computed in one call: gradients, settings or samples."""
    agreement: float
    """The relative difference at which they agree."""


def large_gradient(parameters: int, total: bool) -> SizeTask:
    """Gradients of a network with dropout: in `rgrad.measure` or `measure_total`, and in a loop that only adds them up."""
    width, calls = WIDTHS[parameters], CALLS[parameters]
    x = jax.random.normal(jax.random.key(1), (64, width))
    params = {name: jnp.eye(width) + 0.01 for name in ("first", "second")}

    def loss(params: Any, key: Array) -> Array:
        hidden = jnp.tanh(x @ params["first"])
        kept = jax.random.bernoulli(key, 0.5, hidden.shape)
        return jnp.mean((jnp.where(kept, hidden, 0.0) @ params["second"]) ** 2)

    gradient = lambda key: jax.grad(loss)(params, key)

    @jax.jit
    def plain(key: Array) -> Array:
        def step(total: Any, key: Array) -> tuple[Any, Array]:
            g = gradient(key)
            return jax.tree.map(jnp.add, total, g), optax.tree.norm(g, squared=True)

        sums, squares = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), jax.random.split(key, calls))
        return squares.mean() + 0.0 * optax.tree.sum(sums)

    def whole(key: Array) -> Any:
        found = rgrad.measure_total(gradient, key, calls).whole
        return found.variance.value + found.squared_mean.value

    def elements(key: Array) -> Any:
        moments = rgrad.measure(gradient, key, calls)
        return sum(
            np.sum(m2 + mean**2) for m2, mean in zip(*map(jax.tree.leaves, (moments.m2, moments.mean)), strict=True)
        )

    name = f"{'measure_total' if total else 'measure'}, {parameters:,} parameters: plain loop"
    return SizeTask(whole if total else elements, plain, name, calls, 0.2)


def many_settings() -> SizeTask:
    """`rgrad.measure` under vmap, against stock JAX: a loop over the settings, with all replicates of one at once."""

    def draw(theta: Array, key: Array) -> Array:
        loss = lambda theta: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 10, rgrad.score_function)
        return jax.grad(loss)(theta)

    def stock(theta: Array, key: Array) -> Array:
        x = jax.lax.stop_gradient(theta + jax.random.normal(key, (10,)))
        return jax.grad(lambda theta: jnp.mean(x**2 * dist.Normal(theta, 1.0).log_prob(x)))(theta)

    thetas = jnp.linspace(-2.0, 2.0, SETTINGS)

    @jax.jit
    def ours(key: Array) -> Array:
        of = lambda theta, key: rgrad.measure(partial(draw, theta), key, REPLICATES).variance
        return jnp.mean(jax.vmap(of)(thetas, jax.random.split(key, SETTINGS)))

    @jax.jit
    def loop(key: Array) -> Array:
        of = lambda given: jnp.var(jax.vmap(partial(stock, given[0]))(jax.random.split(given[1], REPLICATES)), ddof=1)
        return jnp.mean(jax.lax.map(of, (thetas, jax.random.split(key, SETTINGS))))

    return SizeTask(ours, loop, "stock JAX, looped over 1,000 settings", SETTINGS, 0.05)


def large_bound() -> SizeTask:
    """The gradient of a bound from K = 3e5 samples: by `vimco`, and by the score function, which has one baseline."""

    def of(gradient: Any, key: Array) -> Array:
        def loss(t: Array) -> Array:
            q = dist.Normal(t, 1.0)
            return rgrad.iwae(dist.Normal(1.0, 1.0).log_prob, q, key, BOUND, 1, gradient)

        return jax.grad(loss)(jnp.asarray(0.5))

    ours, other = (jax.jit(partial(of, gradient)) for gradient in (rgrad.vimco, rgrad.score_function))
    return SizeTask(ours, other, "vimco: score function at K = 3e5", BOUND, np.inf)


def chunked() -> SizeTask:
    """The gradient of a mean over many samples of an f with a large intermediate result, with and without chunks."""
    w = jax.random.normal(jax.random.key(2), (4, 64))

    def of(chunk: int | None, key: Array) -> Array:
        f = lambda x: jnp.sum(jnp.tanh(x @ w) ** 2)
        q = lambda t: dist.Normal(t, 1.0).expand([4]).to_event(1)
        loss = lambda t: rgrad.expect(f, q(t), key, SAMPLES, rgrad.reparameterized, chunk=chunk)
        return jax.grad(loss)(0.5)

    ours, other = (jax.jit(partial(of, chunk)) for chunk in (CHUNK, None))
    return SizeTask(ours, other, "expect(chunk=): without chunks", SAMPLES, 1e-3)


def measuring_section(settings: Any, advance: Advance) -> list[Row]:
    """Gradients, settings or samples per second, for each task."""
    rows: list[Row] = []
    networks = [partial(large_gradient, p, total) for total in (False, True) for p in settings.parameters]
    tasks: list[Callable[[], SizeTask]] = [*networks, many_settings, large_bound, chunked]
    for make in tasks:
        task, key = make(), jax.random.key(settings.seed)
        values = [float(jax.block_until_ready(call(key))) for call in (task.ours, task.other)]  # compiles
        if not abs(values[0] - values[1]) <= task.agreement * abs(statistics.mean(values)):
            raise WrongResult(f"measuring, {task.name}: {values}, which should be nearly the same")
        jobs = {
            OURS: partial(_per_second, task.ours, key, task.amount),
            task.name: partial(_per_second, task.other, key, task.amount),
        }
        found = compared("measuring", task.amount, in_turn(jobs, settings.rounds, _share(advance, len(tasks))), 1)
        rows += named(found, task.name, bool(rows))
    return rows


def _share(advance: Advance, parts: int) -> Advance:
    return lambda share: advance(share / parts)


def _per_second(call: Callable[[Array], Any], key: Array, count: int, turn: int) -> float:
    return count / seconds_of(lambda: float(jax.block_until_ready(call(key))))[0]
