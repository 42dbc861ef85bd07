"""The task of `experiments.fit`: targets, their estimators, and exact values."""

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
from experiments.common.loading import load_estimator
from experiments.common.measuring import ProblemTask, usage
from experiments.common.measuring import prepare as prepare_problem
from experiments.fit.data import Data, load_data
from experiments.fit.fitting import AVERAGE, EXACT, FitTarget, Values, gradients
from experiments.fit.objectives import OBJECTIVES, PARAMETRISATIONS, Objective, minimiser, normal, statistics
from rgrad.problems import expect_objective, labels_of

OPTIMIZERS: Mapping[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
    "rmsprop": optax.rmsprop,
    "adagrad": optax.adagrad,
    "adabelief": optax.adabelief,
}


class Part(NamedTuple):
    """One target with its estimators and its exact values, which have the names of the results."""

    target: FitTarget
    estimators: Mapping[str, Any]
    least: Mapping[str, float | None]
    """Its minimiser."""
    exact: Mapping[str, float | None]
    """Its gradient at the start."""
    points: Mapping[str, Mapping[str, Values]]
    """Points at which gradients are measured: `start`, and `optimum` if known. The inner keys are parametrisations."""
    pick: Callable[[Mapping[str, Values]], dict[str, float]]
    """Selects the numbers to report. Its argument has them by parametrisation and parameter."""

    def measure(self, key: Array, samples: int, replicates: int) -> rgrad.Moments | None:
        """The moments of the gradient by point and estimator. None if nothing is sampled."""
        if self.target.sampled is None:
            return None
        return gradients(self.target, self.estimators, self.points, key, samples, replicates)


class FitTask(NamedTuple):
    parts: list[Part]
    optimizer: optax.GradientTransformation
    data: Data | None


def prepare(settings: Any) -> FitTask:
    """Loads and tests everything, before anything is written.

    Raises:
        UsageError: the data, a name, or an estimator for an objective is invalid.
    """
    rate = settings.learning_rate
    optimizer = OPTIMIZERS[settings.optimizer](
        optax.cosine_decay_schedule(rate, settings.steps) if settings.decay else rate
    )
    if settings.problem is not None:
        return FitTask([_problem_part(settings)], optimizer, None)
    for flag in ("params", "wrt"):
        if getattr(settings, flag):
            raise UsageError(f"--{flag}: needs --problem, which is missing; use --begin MU SIGMA for another start")
    data = load_data(settings.data, settings.column, settings.synthetic, settings.standardise, settings.seed)
    named = {name: _estimator(name) for name in settings.estimators}
    parts = []
    for name in settings.objectives:
        if name not in OBJECTIVES:
            raise UsageError(f"--objectives {name}: unknown name{nearest(name, OBJECTIVES)}")
        parts.append(_data_part(name, OBJECTIVES[name], data, named, settings))
    return FitTask(parts, optimizer, data)


def _estimator(name: str) -> Any:
    return rgrad.score_function if name == AVERAGE else load_estimator(name)


def _try_out(part: Part, samples: int) -> Part:
    """Traces every estimator, because rgrad raises its errors when tracing."""
    for name in part.estimators if part.target.sampled is not None else ():
        with usage(f"{name} with {samples} samples", Exception):
            alone = part._replace(estimators={name: part.estimators[name]})
            jax.eval_shape(lambda key, alone=alone: alone.measure(key, samples, 2).m2, jax.random.key(0))
    return part


def _sigma(params: Values) -> Array:
    """sigma, from the parameters in any parametrisation."""
    (name,) = set(params) - {"mu"}
    return PARAMETRISATIONS[name].to_sigma(params[name])


def _data_part(name: str, objective: Objective, data: Data, named: Mapping[str, Any], settings: Any) -> Part:
    d = statistics(data)
    own = PARAMETRISATIONS[settings.parametrisation]
    mu, sigma = settings.begin or (data.mean + 2 * data.sigma, 2 * data.sigma)
    if sigma <= 0:
        raise UsageError(f"--begin {mu:g} {sigma:g}: expected MU SIGMA, with SIGMA > 0")

    def sampled(params: Values, key: Array, n: int, estimator: rgrad.Estimator) -> Array:
        of_sample = objective.sampled
        assert of_sample is not None
        q = normal(params["mu"], _sigma(params), objective.pair)
        return rgrad.expect(lambda y: of_sample(y, d), q, key, n, estimator)

    def at(mu: float, sigma: float) -> dict[str, Values]:
        """The point in the two parametrisations of the results: with sigma, and with sigma^2."""
        mean = jnp.asarray(mu, float)
        return {
            "sigma": {"mu": mean, "sigma": jnp.asarray(sigma, float)},
            "variance": {"mu": mean, "variance": jnp.asarray(sigma**2, float)},
        }

    target = FitTarget(
        name,
        None if objective.sampled is None else sampled,
        lambda params: objective.rest(params["mu"], _sigma(params), d),
        start={"mu": jnp.asarray(mu, float), settings.parametrisation: jnp.asarray(own.from_sigma(jnp.asarray(sigma, float)))},
        units={"mu": data.sigma, settings.parametrisation: own.unit(data.sigma)},
        unit=objective.unit(data),
        feasible=lambda params: (params[settings.parametrisation] > 0) | (settings.parametrisation == "log_sigma"),
        natural=lambda params: {"mu": params["mu"], "sigma": _sigma(params), "sigma^2": _sigma(params) ** 2},
    )  # fmt: skip
    pick = lambda g: {"mu": g["sigma"]["mu"], "sigma": g["sigma"]["sigma"], "sigma^2": g["variance"]["variance"]}
    least_mu, least_sigma = minimiser(objective, data)
    estimators = {EXACT: None} if objective.sampled is None else named
    part = Part(
        target, estimators,
        least={"mu": least_mu, "sigma": least_sigma, "sigma^2": least_sigma**2},
        exact=_exact_gradient(objective, data, mu, sigma, pick),
        points={"start": at(mu, sigma), "optimum": at(data.mean, data.sigma)},
        pick=pick,
    )  # fmt: skip
    return _try_out(part, settings.num_samples)


def _exact_gradient(objective: Objective, data: Data, mu: float, sigma: float, pick: Any) -> dict[str, float]:
    """The gradient of the closed form, in 64 bits."""
    with jax.enable_x64(True):
        d = statistics(data)
        of_sigma = jax.jit(jax.grad(lambda m, s: objective.expected(m, s, d), (0, 1)))
        of_variance = jax.jit(jax.grad(lambda m, v: objective.expected(m, jnp.sqrt(v), d), 1))
        by_sigma, by_variance = of_sigma(float(mu), float(sigma)), of_variance(float(mu), float(sigma) ** 2)
        ways = {"sigma": {"mu": by_sigma[0], "sigma": by_sigma[1]}, "variance": {"variance": by_variance}}
        return {name: float(x) for name, x in pick(ways).items()}


def _problem_part(settings: Any) -> Part:
    """A built-in problem or the user's own, minimised from its default parameters."""
    if settings.data or settings.synthetic or settings.column:
        raise UsageError("--problem: it replaces the fit to data; leave out --data, --column and --synthetic")
    for flag in ("objectives", "parametrisation", "begin", "standardise"):
        if getattr(settings, flag) != type(settings).model_fields[flag].default:
            raise UsageError(f"--{flag}: it only applies to a fit to data, and --problem is given; leave it out")
    plain = tuple(name for name in settings.estimators if name != AVERAGE)
    given: ProblemTask = prepare_problem(settings, settings.problem, plain, (settings.num_samples,))
    named = {name: _estimator(name) for name in settings.estimators}
    start = {name: given.point[name] for name in given.wrt}

    def sampled(params: Values, key: Array, n: int, estimator: rgrad.Estimator) -> Array:
        return expect_objective(given.problem, {**given.point, **params}, key, n, estimator)

    def flat(params: Mapping[str, Any]) -> Values:
        return {
            label: jnp.ravel(value)[i]
            for name, value in params.items()
            for i, label in enumerate(labels_of(name, given.point[name]))
        }

    known = [rgrad.exact_moments(given.problem, named[name], given.point, given.wrt) for name in plain]
    exact = next((m.mean for m in known if m is not None), None)
    names = list(flat(start))
    target = FitTarget(
        settings.problem, sampled, lambda params: 0.0, start,
        units=dict.fromkeys(start, 1.0), unit=1.0,
        feasible=lambda params: _allowed(given.problem.distribution({**given.point, **params})), natural=flat,
    )  # fmt: skip
    return Part(
        target, named,
        least=dict.fromkeys(names),
        exact=dict.fromkeys(names) if exact is None else {k: float(v) for k, v in flat(exact).items()},
        points={"start": {"own": start}},
        pick=lambda g: dict(zip(names, (x for name in start for x in np.ravel(g["own"][name])), strict=True)),
    )  # fmt: skip


def _allowed(q: Any) -> Array:
    """Whether the parameters of a NumPyro distribution satisfy their constraints."""
    good = jnp.asarray(True)
    for name, constraint in getattr(q, "arg_constraints", {}).items():
        value = vars(q).get(name)
        if value is not None and not isinstance(constraint, type(dist.constraints.dependent)):
            good &= jnp.all(constraint(value))
    return good & _allowed(q.base_dist) if hasattr(q, "base_dist") else good
