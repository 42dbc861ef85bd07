"""The section `calls` of `experiments.benchmark`: many small calls, where the fixed cost of a call decides."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.benchmark.rivals import OURS, THETA, WrongResult
from experiments.benchmark.study import Row, compared, in_turn, seconds_of
from experiments.common.progress import Advance

SIZES = (1, 2, 10)
EAGER, JITTED, MEASURED = 20, 5_000, 200  # calls in one turn
REPLICATES = 100

Gradient = Callable[[Array], Array]


def ours(n: int, key: Array) -> Array:
    loss = lambda theta: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, n, rgrad.score_function)
    return jax.grad(loss)(THETA)


def by_hand(n: int, key: Array) -> Array:
    def loss(theta: Any) -> Array:
        x = jax.lax.stop_gradient(theta + jax.random.normal(key, (n,)))
        return jnp.mean(x**2 * dist.Normal(theta, 1.0).log_prob(x))

    return jax.grad(loss)(THETA)


def measured(key: Array) -> Any:
    """The mean and the variance of 100 gradients, by `rgrad.measure`."""
    moments = rgrad.measure(OF_TEN, key, REPLICATES)
    return moments.mean, moments.variance


OF_TEN = partial(ours, 10)  # one function object, so that its program is compiled once


@jax.jit
def _means(key: Array) -> Any:
    g = jax.vmap(partial(by_hand, 10))(jax.random.split(key, REPLICATES))
    return jnp.mean(g), jnp.var(g, ddof=1)


def measured_by_hand(key: Array) -> Any:
    """The same, in one jitted function of stock JAX."""
    return tuple(map(float, _means(key)))


def calls_section(settings: Any, advance: Advance) -> list[Row]:
    """Calls per second: a gradient from n samples, eager and jitted, and the moments of 100 gradients."""
    rows: list[Row] = []
    tasks: list[tuple[str, int, Any, Any, int]] = []
    for n in SIZES:
        mine, other = partial(ours, n), partial(by_hand, n)
        tasks.append((f"n = {n}, eager", n, mine, other, EAGER))
        tasks.append((f"n = {n}, jitted", n, jax.jit(mine), jax.jit(other), JITTED))
    tasks.append(("measure, 100 replicates", 10, measured, measured_by_hand, MEASURED))
    keys = list(jax.random.split(jax.random.key(settings.seed), JITTED))
    for name, n, mine, other, calls in tasks:
        check(name, mine, other, keys)
        jobs = {who: partial(_calls_per_second, call, keys[:calls]) for who, call in ((OURS, mine), (name, other))}
        found = compared("calls", n, in_turn(jobs, settings.rounds, advance), 1)
        rows += found[bool(rows) :]
    return rows


def _calls_per_second(call: Gradient, keys: list[Array], turn: int) -> float:
    def all_calls() -> None:
        for key in keys:
            last = call(key)
        jax.block_until_ready(last)

    return len(keys) / seconds_of(all_calls)[0]


def check(name: str, mine: Gradient, other: Gradient, keys: list[Array]) -> None:
    """Checks that the means of both agree, within 8 standard errors of `EAGER` calls. This also compiles them.

    Raises:
        WrongResult: they do not.
    """
    got = [np.array([jax.tree.leaves(call(key))[0] for key in keys[:EAGER]], float) for call in (mine, other)]
    error = (sum(values.var(ddof=1) for values in got) / EAGER) ** 0.5
    if not abs(got[0].mean() - got[1].mean()) <= 8 * error:
        raise WrongResult(f"calls, {name}: {got[1].mean():.5g} by hand, {got[0].mean():.5g} here")
