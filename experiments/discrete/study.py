"""Measures and trains every estimator on the problems of discrete gradients."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.progress import Advance
from experiments.discrete.problems import Bits, Categories, DiscreteProblem

State = Any  # what an estimator learns besides the logits: a pytree, {} for most


class DiscreteWay(NamedTuple):
    """An estimator with its row of the table and its own state."""

    estimator: Callable[..., rgrad.Estimator]
    """Maps its own state to the estimator."""
    row: rgrad.EstimatorRow
    start: Mapping[str, float] = {}
    """The initial state. {} if nothing is learned."""


def learned_rebar(state: Mapping[str, Array]) -> rgrad.Estimator:
    return partial(rgrad.rebar, eta=state["eta"], temperature=jnp.exp(state["log_temperature"]))


TRAINED, LARGER = "rebar+trained", "unordered+6"
LARGER_ROW = rgrad.ESTIMATORS["unordered"]._replace(name=LARGER, evaluations=lambda q, n: 6 * n)
OWN = {
    TRAINED: DiscreteWay(learned_rebar, rgrad.ESTIMATORS["rebar"], {"eta": 1.0, "log_temperature": float(np.log(0.5))}),
    LARGER: DiscreteWay(lambda state: partial(rgrad.unordered, k=6), LARGER_ROW),
}
"""REBAR with trained parameters, and the unordered-set estimator with groups of 6."""


def way_of(name: str) -> DiscreteWay:
    """The estimator with this name in the table, or one of `OWN`.

    Raises:
        UsageError: the name is unknown.
    """
    if name in OWN:
        return OWN[name]
    if name not in rgrad.ESTIMATORS:
        raise UsageError(f"--estimators {name}: unknown name{nearest(name, [*rgrad.ESTIMATORS, *OWN])}")
    row = rgrad.ESTIMATORS[name]
    return DiscreteWay(lambda state: row.estimator, row)


class DiscreteTask(NamedTuple):
    """One problem, and the estimators that apply to it."""

    problem: DiscreteProblem
    ways: Mapping[str, DiscreteWay]

    def samples(self, name: str) -> int:
        """n, the samples in one gradient estimate."""
        return self.problem.samples(self.ways[name].row.evaluations)

    def loss(self, logits: Array, target: Array, state: State, name: str, key: Array) -> Array:
        """The expected objective, with the estimator of this name: a scalar, per call."""
        q, f = self.problem.distribution(logits), partial(self.problem.objective, target)
        return rgrad.expect(f, q, key, self.samples(name), self.ways[name].estimator(state))

    def evaluations(self, name: str) -> int:
        """Evaluations of f for one gradient estimate."""
        q = self.problem.distribution(self.problem.start(0.0))
        return self.ways[name].row.evaluations(q, self.samples(name))

    def measure(self, name: str, targets: Array, logit: float, key: Array, replicates: int) -> rgrad.Moments:
        """The gradient with respect to the first logit, for each target. Shape `(targets,)`."""
        logits = self.problem.start(logit)
        state = {part: jnp.asarray(value) for part, value in self.ways[name].start.items()}

        def draw(key: Array) -> Array:
            return jax.vmap(lambda t: jax.grad(self.loss)(logits, t, state, name, key)[0])(targets)

        return rgrad.measure(draw, key, replicates)

    def train(
        self, name: str, targets: Array, logit: float, key: Array, fits: int, steps: int, rate: float, points: int
    ) -> np.ndarray:
        """Exact losses during `fits` runs of Adam for each target. Shape `(targets, fits, points + 1)`.

        The estimator's own parameters follow the gradient of its variance (Tucker et al. 2017). This is the gradient of
        the squared estimate, because the mean does not depend on these parameters.
        """
        optimizer, gradient = optax.adam(rate), jax.grad(self.loss)
        noise = lambda state, logits, t, k: jnp.sum(gradient(logits, t, state, name, k) ** 2)

        def step(carry: Any, k: Array, target: Array) -> tuple[Any, None]:
            parameters, state = carry
            logits, learned = parameters
            slopes = (gradient(logits, target, learned, name, k), jax.grad(noise)(learned, logits, target, k))
            updates, state = optimizer.update(slopes, state, parameters)
            return (optax.apply_updates(parameters, updates), state), None

        def run(target: Array, key: Array) -> Array:
            begin: Any = (self.problem.start(logit), {k: jnp.asarray(v) for k, v in self.ways[name].start.items()})

            def stretch(carry: Any, keys: Array) -> tuple[Any, Array]:
                carry, _ = jax.lax.scan(partial(step, target=target), carry, keys)
                return carry, self.problem.exact_loss(carry[0][0], target)

            keys = jax.random.split(key, (points, steps // points))
            _, losses = jax.lax.scan(stretch, (begin, optimizer.init(begin)), keys)
            return jnp.concatenate([self.problem.exact_loss(begin[0], target)[None], losses])

        every = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
        return np.asarray(jax.jit(every)(targets, jax.random.split(key, fits)), np.float64)


def prepare(settings: Any) -> list[DiscreteTask]:
    """The task of each problem in the settings. It has the estimators that have a rule for its distribution.

    Raises:
        UsageError: an estimator is unknown, applies to none of the problems, or does not support this number of
            samples, bits or categories.
    """
    of: dict[str, DiscreteProblem] = {
        "bits": Bits(settings.bits, settings.num_samples),
        "categories": Categories(settings.classes, settings.evaluations),
    }
    ways, tasks = {name: way_of(name) for name in settings.estimators}, []
    for problem in (of[name] for name in settings.problems):
        q = problem.distribution(problem.start(0.0))
        tasks.append(DiscreteTask(problem, {name: way for name, way in ways.items() if way.row.applies(q)}))
    for name in ways:
        if not any(name in task.ways for task in tasks):
            raise UsageError(f"--estimators {name}: it has no rule for {' or '.join(settings.problems)}")
    for task in tasks:
        for name in task.ways:
            try:
                jax.eval_shape(partial(task.measure, name, jnp.ones(1), 0.0, replicates=2), jax.random.key(0))
            except rgrad.NotApplicable as error:
                flags = (
                    f"--num-samples {settings.num_samples} --bits {settings.bits}"
                    if isinstance(task.problem, Bits)
                    else f"--evaluations {settings.evaluations} --classes {settings.classes}"
                )
                raise UsageError(f"{name} with {flags}: {error}") from None
    return tasks


def rows_of(
    tasks: Sequence[DiscreteTask], settings: Any, key: Array, advance: Advance
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """A row for each problem, estimator and target.

    Also the training curves by problem and estimator, shape `(targets, fits, points + 1)`.
    """
    targets = jnp.asarray(settings.targets, float)
    points = min(settings.points, settings.steps)
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, Any]] = {}
    for task in tasks:
        mine = curves.setdefault(task.problem.name, {})
        exact = task.problem.exact_gradient(settings.logit, np.asarray(settings.targets))
        for name, way in task.ways.items():
            moments = task.measure(name, targets, settings.logit, key, settings.replicates)
            mine[name] = task.train(
                name, targets, settings.logit, key, settings.fits, settings.steps, settings.learning_rate, points
            )
            low, high = moments.variance_interval()
            for i, target in enumerate(settings.targets):
                final = mine[name][i, :, -1] - task.problem.least(target)
                rows.append({
                    "problem": task.problem.name, "estimator": name, "target": target, "evaluations": task.evaluations(name),
                    "biased": way.row.biased,
                    "mean": float(moments.mean[i]), "standard_error": float(moments.standard_error[i]),
                    "exact_mean": float(exact[i]), "bias": float(moments.mean[i] - exact[i]),
                    "variance": float(moments.variance[i]), "variance_low": float(low[i]), "variance_high": float(high[i]),
                    "excess_loss": float(np.mean(final)), "excess_loss_error": float(np.std(final, ddof=1) / len(final) ** 0.5),
                })  # fmt: skip
            advance(1)
    return rows, curves
