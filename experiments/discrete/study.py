"""The toy problem of the literature on discrete gradients: D bits, `f(b) = mean (b - t)^2`, measured and trained."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.progress import Advance

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


TRAINED = "rebar+trained"


def way_of(name: str) -> DiscreteWay:
    """The estimator with this name in the table, or REBAR with trained parameters.

    Raises:
        UsageError: the name is unknown.
    """
    if name == TRAINED:
        return DiscreteWay(
            learned_rebar, rgrad.ESTIMATORS["rebar"], {"eta": 1.0, "log_temperature": float(np.log(0.5))}
        )
    if name not in rgrad.ESTIMATORS:
        raise UsageError(f"--estimators {name}: unknown name{nearest(name, [*rgrad.ESTIMATORS, TRAINED])}")
    row = rgrad.ESTIMATORS[name]
    return DiscreteWay(lambda state: row.estimator, row)


class DiscreteTask(NamedTuple):
    """D bits with one logit each, and n samples per gradient estimate."""

    bits: int
    samples: int
    ways: Mapping[str, DiscreteWay]

    def loss(self, logits: Array, target: Array, state: State, name: str, key: Array) -> Array:
        """`E[mean (b - t)^2]`, with the estimator of this name: a scalar, per call."""
        q = dist.Bernoulli(logits=logits).to_event(1)
        estimator = self.ways[name].estimator(state)
        return rgrad.expect(lambda b: jnp.mean((b - target) ** 2), q, key, self.samples, estimator)

    def evaluations(self, name: str) -> int:
        """Evaluations of f for one gradient estimate."""
        bits = dist.Bernoulli(logits=jnp.zeros(self.bits)).to_event(1)
        return self.ways[name].row.evaluations(bits, self.samples)

    def measure(self, name: str, targets: Array, logit: float, key: Array, replicates: int) -> rgrad.Moments:
        """The gradient with respect to the first logit, if all are `logit`. The bits are exchangeable. Shape `(targets,)`."""
        logits = jnp.full(self.bits, logit)
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
            begin: Any = (jnp.full(self.bits, logit), {k: jnp.asarray(v) for k, v in self.ways[name].start.items()})

            def stretch(carry: Any, keys: Array) -> tuple[Any, Array]:
                carry, _ = jax.lax.scan(partial(step, target=target), carry, keys)
                return carry, exact_loss(carry[0][0], target)

            keys = jax.random.split(key, (points, steps // points))
            _, losses = jax.lax.scan(stretch, (begin, optimizer.init(begin)), keys)
            return jnp.concatenate([exact_loss(begin[0], target)[None], losses])

        every = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
        return np.asarray(jax.jit(every)(targets, jax.random.split(key, fits)), np.float64)


def exact_loss(logits: Array, target: Array) -> Array:
    p = jax.nn.sigmoid(logits)
    return jnp.mean(p * (1 - target) ** 2 + (1 - p) * target**2)


def exact_gradient(logit: float, bits: int, targets: np.ndarray) -> np.ndarray:
    """`p (1 - p) ((1 - t)^2 - t^2) / D`, in 64 bits."""
    p = 1 / (1 + np.exp(-logit))
    return p * (1 - p) * (1 - 2 * np.asarray(targets, np.float64)) / bits


def prepare(settings: Any) -> DiscreteTask:
    """The task that the settings describe.

    Raises:
        UsageError: an estimator is unknown, or does not support this number of samples or bits.
    """
    task = DiscreteTask(settings.bits, settings.num_samples, {name: way_of(name) for name in settings.estimators})
    for name in task.ways:
        try:
            jax.eval_shape(partial(task.measure, name, jnp.ones(1), 0.0, replicates=2), jax.random.key(0))
        except rgrad.NotApplicable as error:
            raise UsageError(
                f"{name} with --num-samples {settings.num_samples} --bits {settings.bits}: {error}"
            ) from None
    return task


def rows_of(
    task: DiscreteTask, settings: Any, key: Array, advance: Advance
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each estimator and target, and the training curves by estimator, shape `(targets, fits, points + 1)`."""
    targets = jnp.asarray(settings.targets, float)
    exact = exact_gradient(settings.logit, task.bits, np.asarray(settings.targets))
    points = min(settings.points, settings.steps)
    rows, curves = [], {}
    for name, way in task.ways.items():
        moments = task.measure(name, targets, settings.logit, key, settings.replicates)
        curves[name] = task.train(
            name, targets, settings.logit, key, settings.fits, settings.steps, settings.learning_rate, points
        )
        low, high = moments.variance_interval()
        for i, target in enumerate(settings.targets):
            final = curves[name][i, :, -1] - min(target, 1 - target) ** 2
            rows.append({
                "estimator": name, "target": target, "evaluations": task.evaluations(name), "biased": way.row.biased,
                "mean": float(moments.mean[i]), "standard_error": float(moments.standard_error[i]),
                "exact_mean": float(exact[i]), "bias": float(moments.mean[i] - exact[i]),
                "variance": float(moments.variance[i]), "variance_low": float(low[i]), "variance_high": float(high[i]),
                "excess_loss": float(np.mean(final)), "excess_loss_error": float(np.std(final, ddof=1) / len(final) ** 0.5),
            })  # fmt: skip
        advance(1)
    return rows, curves
