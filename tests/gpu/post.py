"""The post's problem, E[x^2] with x ~ N(2, 1): its gradients, their exact moments, and part b1."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import rgrad
from tests.gpu.context import Context
from tests.gpu.report import say

THETA = 2.0
MOST_Z = 5.0  # standard errors
NAMES = ("score_function", "reparameterized")


def post(n: int) -> Callable[[Any], Any]:
    """One call of both gradients of E[x^2], x ~ N(theta, 1), at theta = 2, from n samples each."""

    def loss(theta: Any, key: Any, estimator: Any) -> Any:
        return rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, n, estimator)

    def draw(key: Any) -> Any:
        return tuple(jax.grad(loss)(THETA, key, e) for e in (rgrad.score_function, rgrad.reparameterized))

    return draw


def exact_post(n: int) -> tuple[list[float], list[float], list[float]]:
    """The means, variances and kurtoses of the two gradients, from the moments (k - 1)!! of a standard normal."""
    moment = lambda p: sum(c * (math.prod(range(k - 1, 0, -2)) if k % 2 == 0 else 0) for k, c in enumerate(p))
    means, variances, kurtoses = [], [], []
    for g in (np.polynomial.Polynomial([0, 4, 4, 1]), np.polynomial.Polynomial([4, 2])):  # (2 + e)^2 e and 2 (2 + e)
        away = g - moment(g.coef)
        variance = moment((away**2).coef)
        means.append(float(moment(g.coef)))
        variances.append(float(variance) / n)
        kurtoses.append(3 + (float(moment((away**4).coef)) / float(variance) ** 2 - 3) / n)
    return means, variances, kurtoses


def post_errors(moments: Any, n: int) -> dict[str, Any]:
    """The z-scores of the means and variances, by exact standard errors, and their relative errors."""
    means, variances, kurtoses = exact_post(n)
    count = float(moments.count)
    out: dict[str, Any] = {"replicates": count}
    for i, name in enumerate(NAMES):
        mean, variance = float(moments.mean[i]), float(moments.variance[i])
        out[name] = {
            "mean": mean,
            "variance x n": variance * n,
            "z mean": (mean - means[i]) / (variances[i] / count) ** 0.5,
            "z variance": (variance / variances[i] - 1) / ((kurtoses[i] - 1) / count) ** 0.5,
            "relative error of the mean": mean / means[i] - 1,
            "relative error of the variance": variance / variances[i] - 1,
        }
    return out


def right(errors: dict[str, Any], rounding: float = 2e-6) -> bool:
    """Whether all errors are within 5 standard errors, or within the rounding of 32 bits if that is larger."""
    return all(
        abs(errors[name][f"z {what}"]) < MOST_Z or abs(errors[name][f"relative error of the {what}"]) < rounding
        for name in NAMES
        for what in ("mean", "variance")
    )


def check_post(ctx: Context) -> None:
    def job(n: int, replicates: int) -> tuple[bool, dict[str, Any]]:
        found = post_errors(rgrad.measure(post(n), jax.random.key(n), replicates), n)
        return right(found), found

    sizes = ctx.size({1: 2_000_000, 10: 1_000_000, 1_000: 100_000}, {10: 20_000})
    ctx.checks_in_threads({f"n = {n}": partial(job, n, replicates) for n, replicates in sizes.items()})
    for label, found in ctx.mine["checks"].items():
        if NAMES[0] in found:
            z = [abs(found[name][what]) for name in NAMES for what in ("z mean", "z variance")]
            score, path = (found[name]["variance x n"] for name in NAMES)
            say(f"   {label}: variance x n {score:.3f} and {path:.4f}, for 87 and 4; largest |z| {max(z):.1f}")
