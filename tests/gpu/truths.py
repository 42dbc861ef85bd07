"""Gradients of expectations under continuous distributions, with closed forms."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import rgrad
from tests.gpu.judging import Case

N = 10  # samples in one call
SCORE, PATH = rgrad.score_function, rgrad.reparameterized
LOO = partial(SCORE, baseline=rgrad.leave_one_out)
UNKNOWN = float("nan")


def square(x: Any) -> Any:
    return x**2


def normal(params: Any) -> Any:
    return dist.Normal(params["loc"], params["scale"])


def loc_only(loc: Any) -> Any:
    return dist.Normal(loc, 1.0)


def of(f: Any, build: Any, params: Any, estimator: Any, n: int = N, **options: Any) -> Callable[[], Any]:
    """The gradient of E[f(x)], x ~ build(params), with respect to `params`."""

    def draw(key: Any) -> Any:
        floats = jax.tree.map(lambda x: jnp.asarray(x, float), params)
        return jax.grad(lambda p: rgrad.expect(f, build(p), key, n, estimator, **options))(floats)

    return lambda: draw


def derivative(f: Callable[[Any], float], at: Any, step: float = 1e-5) -> list[float]:
    """The central difference along each coordinate."""
    at = np.asarray(at, float)
    return [(f(at + step * e) - f(at - step * e)) / (2 * step) for e in np.eye(len(at))]


def normal_cases() -> dict[str, Case]:
    """x^2 at N(2, 1): d/d loc = 2 loc and d/d scale = 2 scale."""
    at, truth = {"loc": 2.0, "scale": 1.0}, {"loc": 4.0, "scale": 2.0}
    known = {
        "reparameterized": (PATH, {"loc": 4 / N, "scale": 24 / N}),
        "score_function": (SCORE, {"loc": 87 / N, "scale": 346 / N}),
        "score_function, leave_one_out": (LOO, {"loc": 42 / N + 34 / (N * (N - 1)), "scale": UNKNOWN}),
        "score_function, a number": (partial(SCORE, baseline=5.0), {"loc": 42 / N, "scale": UNKNOWN}),
        "score_function, a function": (partial(SCORE, baseline=lambda v: (v.sum() - v) / (v.size - 1)), None),
        "score_function, optimal": (partial(SCORE, baseline=rgrad.optimal), None),
        "score_function, control variate": (
            partial(SCORE, control_variate=lambda f, q: (lambda x: 4 * x - 4, 4 * q.loc - 4)),
            None,
        ),
        "measure_valued": (rgrad.measure_valued, None),
        "measure_valued, not coupled": (partial(rgrad.measure_valued, coupled=False), None),
        "generalized": (rgrad.generalized, None),
    }
    found = {f"normal: {name}": Case(of(square, normal, at, e), truth, v) for name, (e, v) in known.items()}
    found["normal: jax_random"] = Case(
        of(square, lambda p: rgrad.jax_random(normal(p)), at, PATH), truth, {"loc": 4 / N, "scale": 24 / N}
    )

    def moving() -> Any:
        average = rgrad.moving_average().update(5.0)
        return of(square, normal, at, partial(SCORE, baseline=average))()

    def combined() -> Any:
        both = rgrad.combine([PATH, SCORE]).fitted(square, dist.Normal(2.0, 1.0), jax.random.key(5), N)
        return of(square, lambda p: dist.Normal(p["loc"], 1.0), {"loc": 2.0}, both)()

    for name in (
        "score_function+delta",
        "score_function+stratified",
        "score_function+quasi",
        "measure_valued+independent",
    ):
        found[f"normal: {name}"] = Case(of(square, normal, at, rgrad.ESTIMATORS[name].estimator), truth)
    found["normal: score_function, moving_average"] = Case(moving, truth, {"loc": 42 / N, "scale": UNKNOWN})
    found["normal: combine"] = Case(combined, {"loc": 4.0}, below=0.9 * 4 / N)
    return found


def dependent_cases() -> dict[str, Case]:
    """exp(x / 2) at N(1/2, 1), by draws that depend on each other; and the delta method."""
    value = math.exp(0.25 + 0.125)
    start, want = {"loc": 0.5, "scale": 1.0}, {"loc": value / 2, "scale": value / 4}
    exponential = lambda x: jnp.exp(x / 2)
    found = {}
    for name in ("antithetic", "stratified", "quasi"):
        dependent = lambda p, name=name: getattr(rgrad, name)(normal(p))
        found[f"{name}: reparameterized"] = Case(of(exponential, dependent, start, PATH), want)
    pairs = partial(SCORE, baseline=rgrad.leave_pair_out)
    found["antithetic: score_function, leave_pair_out"] = Case(
        of(exponential, lambda p: rgrad.antithetic(normal(p)), start, pairs), want
    )
    found["delta"] = Case(
        of(jnp.sin, normal, {"loc": 2.0, "scale": 1.0}, partial(SCORE, control_variate=rgrad.delta)),
        {"loc": math.cos(2) * math.exp(-0.5), "scale": -math.sin(2) * math.exp(-0.5)},
    )
    return found


def family_cases() -> dict[str, Case]:
    """E x^2 or E x under other distributions, with two parameters each."""
    families = {
        "Laplace": (dist.Laplace, square, (1.0, 0.5), (2.0, 2.0)),
        "Logistic": (dist.Logistic, square, (1.0, 0.5), (2.0, math.pi**2 / 3)),
        "Gumbel": (dist.Gumbel, lambda x: x, (1.0, 0.5), (1.0, 0.5772156649)),
        "LogNormal": (dist.LogNormal, lambda x: x, (0.1, 0.4), (math.exp(0.18), 0.4 * math.exp(0.18))),
        "Uniform": (dist.Uniform, square, (-1.0, 2.0), (0.0, 1.0)),
        "StudentT": (lambda a, b: dist.StudentT(8.0, a, b), square, (1.0, 0.5), (2.0, 8 / 6)),
        "Gamma": (dist.Gamma, square, (3.0, 2.0), (7 / 4, -3.0)),
        "Beta": (dist.Beta, lambda x: x, (2.0, 3.0), (3 / 25, -2 / 25)),
    }
    pair = lambda kind: lambda p: kind(p[0], p[1])
    found = {
        f"{name}: reparameterized": Case(of(f, pair(kind), params, PATH), mean)
        for name, (kind, f, params, mean) in families.items()
    }
    found["Laplace: score_function"] = Case(of(square, pair(dist.Laplace), (1.0, 0.5), LOO), (2.0, 2.0))
    for name, e in (("generalized", rgrad.generalized), ("rejection", rgrad.rejection), ("score_function", LOO)):
        found[f"Gamma: {name}"] = Case(of(square, pair(dist.Gamma), (3.0, 2.0), e), (7 / 4, -3.0))
    concentration = np.array([1.5, 2.0, 3.0])
    second = lambda a: float(a[0] * (a[0] + 1) / (a.sum() * (a.sum() + 1)))
    for name, e in (("reparameterized", PATH), ("rejection", rgrad.rejection)):
        found[f"Dirichlet: {name}"] = Case(
            of(lambda x: x[0] ** 2, dist.Dirichlet, concentration, e), derivative(second, concentration)
        )
    found["Exponential: measure_valued"] = Case(of(square, dist.Exponential, 1.5, rgrad.measure_valued), -4 / 1.5**3)
    return found


def vector_cases() -> dict[str, Case]:
    """|x|^2 under distributions of vectors."""
    mu, c = np.array([0.5, -1.0]), np.array([[1.0, 0.3], [0.5, 0.8]])
    lower = np.tril(c)
    norm = lambda x: jnp.sum(x**2)
    gaussian = lambda p: dist.MultivariateNormal(p["mu"], scale_tril=p["c"])
    laplace = lambda p: rgrad.location_scale(p["mu"], p["c"], dist.Laplace(0.0, 1.0))
    fixed = lambda p: dist.MultivariateNormal(p["mu"], scale_tril=lower)
    both = {"mu": mu, "c": c}
    return {
        "MultivariateNormal: reparameterized": Case(
            of(norm, gaussian, {"mu": mu, "c": lower}, PATH), {"mu": 2 * mu, "c": 2 * lower}
        ),
        "MultivariateNormal: score_function": Case(of(norm, fixed, {"mu": mu}, LOO), {"mu": 2 * mu}),
        "location_scale: reparameterized": Case(of(norm, laplace, both, PATH), {"mu": 2 * mu, "c": 4 * c}),
        "location_scale: score_function": Case(of(norm, laplace, both, LOO), {"mu": 2 * mu, "c": 4 * c}),
    }
