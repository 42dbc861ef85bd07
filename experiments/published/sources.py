"""Repeats the measurements of each source. One function for each source maps the settings to rows.

Every gradient is `jax.grad` of `rgrad.expect`.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.common.loading import load_problem
from experiments.common.measuring import ProblemTask
from experiments.common.progress import Advance
from experiments.published import tables
from experiments.published.rows import (
    Claim,
    Row,
    errors_of,
    measure,
    number_in,
    row_of_mean,
    row_of_order,
    row_of_variance,
)
from rgrad.problems import point_of

NAMED = {name: rgrad.ESTIMATORS[name].estimator for name in ("score_function", "reparameterized")}


def post(settings: Any, key: Array, advance: Advance) -> list[Row]:
    """Estimates from N samples. The post took mean and variance over 100 repetitions, so its noise is larger than ours."""
    problem = load_problem("square")
    task = ProblemTask("square", problem, point_of(problem), ("loc",), NAMED)
    measured = {}
    for size in settings.num_samples:
        part = lambda done: advance(done / settings.post_replicates / sum(settings.num_samples))
        measured[size] = task.measure(jax.random.fold_in(key, size), size, settings.post_replicates, part).moments
    rows = []
    for (kind, estimator), printed in tables.POST.items():
        for size, text in printed.items():
            if size not in measured:
                continue
            ours = number_in(measured[size], estimator, "loc")
            error = np.hypot(errors_of(tables.POST_REPETITIONS, ours)[kind], tables.rounding(text))
            claim = Claim(
                tables.SOURCES["post"], f"{kind} of the estimate, N = {size:,}", estimator, "theta", float(text), error
            )
            rows.append((row_of_mean if kind == "mean" else row_of_variance)(claim, ours))
    return rows


def gradients(f: Callable[[Array], Array], mu: float, key: Array, estimator: rgrad.Estimator) -> dict[str, Array]:
    """One estimate, from one sample, of the gradient of E[f(x)], x ~ N(mu, sigma^2), for mu and sigma, at sigma = 1."""
    expectation = lambda at: rgrad.expect(f, dist.Normal(at["mu"], at["sigma"]), key, 1, estimator)
    return jax.grad(expectation)({"mu": jnp.asarray(mu, float), "sigma": jnp.asarray(1.0)})


COSTS: dict[str, Callable[[Array, Array], Array]] = {
    "square": lambda k, x: (x - k) ** 2,
    "exp": lambda k, x: jnp.exp(-k * x**2),
    "cos": lambda k, x: jnp.cos(k * x),
}


def mohamed(settings: Any, key: Array, advance: Advance) -> list[Row]:
    """Variances per sample: score function with three baselines, reparameterized, and coupled measure-valued gradient.

    All use the same draws, so the z of one parameter are correlated.
    """

    def estimates(cost: Callable[[Array, Array], Array], key: Array, k: Array, constant: Any) -> dict[str, Any]:
        by = lambda estimator: gradients(partial(cost, k), 1.0, key, estimator)
        score = lambda b: by(partial(rgrad.score_function, baseline=b))
        return {
            tables.PLAIN: by(rgrad.score_function),
            tables.MEAN: score(constant[tables.MEAN]["mu"]),  # E[f], the same for both
            tables.OPTIMAL: {name: score(constant[tables.OPTIMAL][name])[name] for name in ("mu", "sigma")},
            "reparameterized": by(rgrad.reparameterized),
            "measure_valued": by(rgrad.measure_valued),
        }

    # One program for all costs of a family. k and the baselines, of shape (K,), are its arguments.
    ks = {name: jnp.asarray(family.ks, float) for name, family in tables.MOHAMED.items()}
    constants = {
        name: _stacked([tables.baselines(partial(f.cost, k), 1.0) for k in f.ks]) for name, f in tables.MOHAMED.items()
    }
    draw = lambda key: {
        name: jax.vmap(partial(estimates, cost, key))(ks[name], constants[name]) for name, cost in COSTS.items()
    }
    moments = measure(draw, key, settings.replicates, advance)
    return [
        row_of_variance(
            Claim(tables.SOURCES["mohamed"], f"variance, {family.text.format(k)}", estimator, name, value),
            number_in(moments, title, estimator, name, i),
        )
        for title, family in tables.MOHAMED.items()
        for i, k in enumerate(family.ks)
        for estimator, by_name in tables.mohamed_variances(title, k).items()
        for name, value in by_name.items()
    ]


def gal(settings: Any, key: Array, advance: Advance) -> list[Row]:
    """Variances per sample, for costs that are difficult for one of the two estimators."""
    costs: dict[str, Callable[[Array], Array]] = {
        "x + x^2": lambda x: x + x**2,
        "sin x": jnp.sin,
        "sin 10x": lambda x: jnp.sin(10 * x),
    }
    draw = lambda key: {
        (text, name): gradients(f, 0.0, key, estimator)
        for text, f in costs.items()
        for name, estimator in NAMED.items()
    }
    moments = measure(draw, key, settings.replicates, advance)
    return [
        row_of_variance(
            Claim(
                tables.SOURCES["gal"], f"variance, {text}", estimator, name, float(printed), tables.rounding(printed)
            ),
            number_in(moments, (text, estimator), name),
        )
        for (text, name), by_estimator in tables.GAL.items()
        for estimator, printed in by_estimator.items()
    ]


def naesseth(settings: Any, key: Array, advance: Advance) -> list[Row]:
    """The gradient of an ELBO for the first shape of a Dirichlet: unbiased, with errors in a published order.

    theta ~ Dirichlet(1, ..., 1), x_i ~ Categorical(theta), and q = Dirichlet(alpha). alpha_1 is 1.5, 2 or 3, and the
    other shapes are those of the posterior (where alpha_1 is 2). The entropy of q is exact, and each estimate uses one
    sample. The estimate is unbiased, so the mean squared error is the variance. It decreases from the generalized gradient
    (G-REP) to plain rejection (B = 0), and further with each step of augmentation. At alpha_1 = 1.5, the gradient of
    plain rejection has finite moments only up to order 4.5, and G-REP is not noisier (variance 118, against
    135 [113, 163] over 600,000 estimates). So that order is not tested.
    """
    counts = jnp.asarray(tables.naesseth_counts(), float)
    joint = lambda theta: dist.Dirichlet(jnp.ones(100)).log_prob(theta) + counts @ jnp.log(theta)

    def elbo(first: Array, key: Array, estimator: rgrad.Estimator) -> Array:
        q = dist.Dirichlet((1 + counts).at[0].set(first))
        return rgrad.expect(joint, q, key, 1, estimator) + q.entropy()

    estimators = {"generalized": rgrad.generalized} | {
        f"rejection, B = {steps}": partial(rgrad.rejection, augmentation=steps)
        for steps in sorted(settings.augmentation)
    }
    shapes = jnp.asarray(tables.NAESSETH_SHAPES)
    measured = {}
    for i, (name, estimator) in enumerate(estimators.items()):  # each with its own draws
        draw = lambda key, e=estimator: jax.vmap(lambda first: jax.grad(elbo)(first, key, e))(shapes)
        part = lambda done: advance(done / len(estimators))
        measured[name] = measure(draw, jax.random.fold_in(key, i), settings.dirichlet_replicates, part)
    rows = []
    for i, shape in enumerate(tables.NAESSETH_SHAPES):
        for name in estimators:
            quantity = f"gradient at alpha_1 = {shape:g}"
            claim = Claim(tables.SOURCES["naesseth"], quantity, name, "alpha_1", tables.naesseth_gradient(shape))
            rows.append(row_of_mean(claim, number_in(measured[name], i)))
        for larger, smaller in pairwise(estimators):
            if (shape, smaller) == (1.5, "rejection, B = 0"):
                continue
            pair = (number_in(measured[larger], i), number_in(measured[smaller], i))
            quantity = f"ratio of errors at alpha_1 = {shape:g}, > 1"
            claim = Claim(tables.SOURCES["naesseth"], quantity, f"{larger} / {smaller}", "alpha_1", 1.0)
            rows.append(row_of_order(claim, *pair))
    return rows


RUN: dict[str, Callable[[Any, Array, Advance], list[Row]]] = {
    "post": post,
    "mohamed": mohamed,
    "gal": gal,
    "naesseth": naesseth,
}
"""Maps settings, a key and `advance` to rows. Each source advances the progress bar by 1."""


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *numbers: jnp.asarray(numbers, float), *trees)
