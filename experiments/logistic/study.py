"""The comparison of `experiments.logistic`, and the final fit to all rows."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.common.errors import UsageError
from experiments.common.measuring import usage
from experiments.common.progress import Advance
from experiments.logistic.data import INTERCEPT, Split, Table, load_table, split
from experiments.logistic.model import FAMILIES, LogisticWay, Model, elbo_of, load_way
from experiments.logistic.nuts import Posterior, sample_posterior
from experiments.logistic.task import CHUNK, LogisticPlan, Runs, Worth, judge, run_fits


class LogisticTask(NamedTuple):
    settings: Any
    table: Table
    compared: Split
    whole: Split
    """All rows, none held out."""
    ways: Mapping[str, LogisticWay]
    plan: LogisticPlan

    @property
    def work(self) -> float:
        """Total work in steps. NUTS counts as one fit."""
        s = self.settings
        return float(s.steps * (len(s.families) * (len(self.ways) + (s.held_out > 0)) + s.nuts))


class Fitted(NamedTuple):
    """The fits of one family with one estimator to some rows."""

    data: str
    rows: int
    family: str
    estimator: str
    plan: LogisticPlan
    runs: Runs
    rough: Worth
    """The quality from few samples, to choose the rate. Axes (rates, seeds)."""
    chosen: int
    """The index of the rate with the largest ELBO, among those at which no fit stopped."""
    worth: Worth
    """The quality from many samples, at the chosen rate. Shape (seeds,)."""
    curve: Worth
    """The quality during the fit, at the chosen rate. Axes (pieces, seeds)."""

    @property
    def elbo(self) -> float:
        """The mean over the seeds at the chosen rate."""
        value = float(self.worth.elbo.mean())
        return value if np.isfinite(value) else -np.inf


class Study(NamedTuple):
    task: LogisticTask
    compared: list[Fitted]
    whole: list[Fitted]
    """The best estimator of each family, fitted to all rows."""
    posterior: Posterior | None
    """The posterior given all rows."""

    @property
    def weights(self) -> list[str]:
        return [INTERCEPT, *self.task.table.names]


def prepare(settings: Any) -> LogisticTask:
    """Loads and tests everything, before anything is written.

    Raises:
        UsageError: the data are invalid, or an estimator does not support this number of samples.
    """
    table = load_table(settings.data, settings.column)
    compared, whole = split(table, settings.held_out, settings.seed), split(table, 0.0, settings.seed)
    ways = {name: load_way(name) for name in settings.estimators}
    if settings.batch is not None and settings.batch > len(compared.y):
        raise UsageError(
            f"--batch {settings.batch}: there are only {len(compared.y)} rows to fit; give at most that many"
        )
    plan = LogisticPlan(
        settings.learning_rates, settings.seeds, settings.steps, settings.num_samples, settings.points, settings.batch
    )
    for name, way in ways.items():
        for family in settings.families:
            with usage(f"{name} with --num-samples {settings.num_samples}", Exception):
                loss = partial(elbo_of, model_of(compared), family, way, n=settings.num_samples, batch=settings.batch)
                start = FAMILIES[family].start(compared.x.shape[1])
                jax.eval_shape(jax.grad(lambda p, key, loss=loss: loss(p, key)), start, jax.random.key(0))
    return LogisticTask(settings, table, compared, whole, ways, plan)


def model_of(data: Split) -> Model:
    return Model(jnp.asarray(data.x, float), jnp.asarray(data.y, float))


def study(task: LogisticTask, key: Array, advance: Advance) -> Study:
    """Fits every family with every estimator to the rows that are not held out, then the best of each to all rows.

    Runs NUTS on all rows. All estimators use the same keys.
    """
    s = task.settings
    for_fits, for_posterior = jax.random.split(key)
    name = "training" if s.held_out else "all"
    fitted = partial(_fitted, task, key=for_fits, advance=advance)
    compared = [fitted(name, task.compared, family, way, task.plan) for family in s.families for way in task.ways]
    whole = [max((f for f in compared if f.family == family), key=lambda f: f.elbo) for family in s.families]
    if s.held_out:
        alone = lambda f: f.plan._replace(rates=(f.plan.rates[f.chosen],))
        whole = [fitted("all", task.whole, f.family, f.estimator, alone(f)) for f in whole]
    posterior = None
    if s.nuts:
        posterior = sample_posterior(model_of(task.whole), for_posterior, s.chains, s.draws // 2, s.draws)
        advance(s.steps)
    return Study(task, compared, whole, posterior)


def _fitted(
    task: LogisticTask,
    data: str,
    rows: Split,
    family: str,
    name: str,
    plan: LogisticPlan,
    *,
    key: Array,
    advance: Advance,
) -> Fitted:
    for_fits, for_choice, for_end, for_curve = jax.random.split(key, 4)
    runs = run_fits(model_of(rows), family, task.ways[name], plan, for_fits, advance)
    rough = judge(rows, family, runs.params, for_choice, CHUNK)
    good = (runs.stopped_at < 0).all(1) & np.isfinite(rough.elbo).all(1)
    chosen = int(np.argmax(np.where(good, rough.elbo.mean(1), -np.inf)))
    params, path = (
        {k: np.take(x, chosen, axis) for k, x in p.items()} for axis, p in enumerate((runs.params, runs.path))
    )
    worth = judge(rows, family, params, for_end, task.settings.final_num_samples)
    curve = judge(rows, family, path, for_curve, CHUNK)
    return Fitted(data, len(rows.y), family, name, plan, runs, rough, chosen, worth, curve)
