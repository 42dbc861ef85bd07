"""Many simultaneous fits of Bayesian logistic regression, and the evaluation of fits."""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rgrad
from experiments.common.progress import Advance
from experiments.logistic.data import Split
from experiments.logistic.model import FAMILIES, LogisticWay, Model, Params, elbo_of
from rgrad.fitting import NOTHING

CHUNK = 1_000  # samples that are drawn at once to judge a fit


class LogisticPlan(NamedTuple):
    """The plan of the fits: `len(rates)` times `seeds` at once."""

    rates: tuple[float, ...]
    seeds: int
    steps: int
    samples: int
    """Evaluations of log g per step."""
    points: int
    """Approximate number of points of a curve."""
    batch: int | None
    """Rows in the minibatch of a step. None for all rows."""


class Runs(NamedTuple):
    """Fits of one family with one estimator. Leading axes (rates, seeds)."""

    params: Params
    """Final parameters. If a fit stopped: the last ones with a finite loss and gradient."""
    path: Params
    """The same after each piece of the run. Axes (pieces, rates, seeds)."""
    steps: np.ndarray
    """Steps after each piece, shape (pieces,)."""
    seconds: np.ndarray
    """Seconds per fit after each piece: time of the program without compilation, divided by the number of fits."""
    stopped_at: np.ndarray
    """The step with the first value that is not finite. -1 if there is none."""


def run_fits(model: Model, family: str, way: LogisticWay, plan: LogisticPlan, key: Array, advance: Advance) -> Runs:
    """Minimises the negative ELBO with Adam, for `plan.seeds` seeds and each learning rate (cosine decay to 0)."""

    def loss(params: Params, last: Params, key: Array) -> tuple[Array, Params]:
        # The state holds the parameters before the step. A rejected step does not change it, so it ends with the last
        # good parameters.
        return -elbo_of(model, family, way, params, key, plan.samples, plan.batch), params

    schedule = lambda rate: optax.cosine_decay_schedule(rate, plan.steps)
    optimizer = optax.inject_hyperparams(lambda rate: optax.adam(schedule(rate)))(rate=1.0)
    keys = jax.random.split(key, plan.seeds)  # the same for each rate
    start = FAMILIES[family].start(model.x.shape[1])

    def begin(rate: Array, _: Array) -> rgrad.Fit:
        fit = rgrad.initial_fit(start, optimizer, start)
        return fit._replace(optimizer_state=fit.optimizer_state._replace(hyperparams={"rate": rate}))

    def go_on(length: int, at: rgrad.Fit) -> rgrad.Fit:
        one = lambda fit, key: rgrad.fit(loss, fit, optimizer, key, length, record=lambda params: params["loc"][0])
        return over_lanes(one)(at, keys)._replace(trace=NOTHING)

    over_lanes = lambda f: jax.vmap(jax.vmap(f, (0, 0)), (0, None))
    at = jax.vmap(lambda rate: jax.vmap(partial(begin, rate))(keys))(jnp.asarray(plan.rates, float))
    stride = max(1, plan.steps // plan.points)
    lengths = [min(stride, plan.steps - first) for first in range(0, plan.steps, stride)]
    programs = {n: jax.jit(go_on, static_argnums=0).lower(n, at).compile() for n in set(lengths)}
    path, seconds = [], []
    for length in lengths:
        began = time.perf_counter()
        at = jax.block_until_ready(programs[length](at))
        seconds.append(time.perf_counter() - began)
        path.append(jax.device_get(_last_good(at)))
        advance(length)
    lanes = len(plan.rates) * plan.seeds
    every = jax.tree.map(lambda *x: np.stack(x), *path)
    last = jax.tree.map(lambda x: x[-1], every)
    return Runs(last, every, np.cumsum(lengths), np.cumsum(seconds) / lanes, np.asarray(at.stopped_at))


def _last_good(fit: rgrad.Fit) -> Params:
    pick = lambda new, old: jnp.where(
        (fit.stopped_at >= 0).reshape(fit.stopped_at.shape + (1,) * (new.ndim - 2)), old, new
    )
    return jax.tree.map(pick, fit.params, fit.state)


class Worth(NamedTuple):
    """The quality of fits, from new samples. Any leading axes."""

    elbo: np.ndarray
    held_out: np.ndarray
    """`mean_i log E_q[p(y_i | x_i, w)]` over the held-out rows, in nats per row. nan if there are none."""
    held_out_accuracy: np.ndarray
    accuracy: np.ndarray
    """The share of the fitted rows whose y has the larger probability."""


def judge(data: Split, family: str, params: Params, key: Array, samples: int) -> Worth:
    """Judges each of the stacked fits with `samples` new samples (rounded up to thousands, if there are more).

    Uses 64 bits: in 32 bits, `log q` of an ill-conditioned full covariance is off by nats.
    """
    lead = params["loc"].shape[:-1]
    with jax.enable_x64(True):
        wide = lambda x: jnp.asarray(np.asarray(x), float)
        flat = jax.tree.map(lambda x: wide(x).reshape(-1, *x.shape[len(lead) :]), params)
        keys = jax.random.split(key, len(flat["loc"]))
        models = Model(wide(data.x), wide(data.y)), Model(wide(data.held_x), wide(data.held_y))
        found = _judge(models, flat, keys, family, min(samples, CHUNK), -(-samples // CHUNK))
        return Worth(*(np.asarray(x, np.float64).reshape(lead) for x in found))


@partial(jax.jit, static_argnums=(3, 4, 5))
def _judge(
    models: tuple[Model, Model], params: Params, keys: Array, family: str, n: int, chunks: int
) -> tuple[Array, ...]:
    model, held = models

    def one(pair: tuple[Params, Array]) -> tuple[Array, ...]:
        params, key = pair
        q = FAMILIES[family].distribution(params)

        def chunk(key: Array) -> tuple[Array, Array, Array]:
            w = q.sample(key, (n,))
            gap = jax.vmap(model.log_g)(w) - q.log_prob(w)
            likely = [jax.nn.sigmoid((2 * m.y - 1) * (w @ m.x.T)).mean(0) for m in (held, model)]
            return gap.mean(), *likely

        elbo, held_out, fitted = (x.mean(0) for x in jax.lax.map(chunk, jax.random.split(key, chunks)))
        return elbo, jnp.log(held_out).mean(), jnp.mean(held_out > 0.5), jnp.mean(fitted > 0.5)

    return jax.lax.map(one, (params, keys))
