"""Problems for sweeps and for `compare`, and what a sweep of the first must give."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

import rgrad


class Square:
    """E[x^2], x ~ N(loc, scale^2): d/d loc."""

    wrt = ("loc",)
    params = {"loc": 2.0, "scale": 1.0}  # noqa: RUF012

    def __init__(self, wrap: Callable[[Any], Any] = lambda q: q):
        self.wrap = wrap

    def distribution(self, params: Any) -> Any:
        return self.wrap(dist.Normal(params["loc"], params["scale"]))

    def objective(self, params: Any, x: Any) -> Any:
        return x**2


class Step:
    """P(x > 0), x ~ N(loc, 1). The gradient of the objective is 0, so reparameterization is biased."""

    params = {"loc": 0.3}  # noqa: RUF012

    @staticmethod
    def distribution(params: Any) -> Any:
        return dist.Normal(params["loc"], 1.0)

    @staticmethod
    def objective(params: Any, x: Any) -> Any:
        return jnp.where(x > 0, 1.0, 0.0)


def both_estimators() -> dict[str, Any]:
    return {"score_function": rgrad.score_function, "reparameterized": rgrad.reparameterized}


def swept_errors(moments: Any, locs: Any, n: int) -> dict[str, float]:
    """Of a sweep of `Square` over loc at scale 1: the largest z of the means, and the largest error of the variances."""
    worst, variance = 0.0, 0.0
    # With x = loc + e: E[(x^2 e)^2] = loc^4 + 18 loc^2 + 15, and the mean is 2 loc.
    truth = {
        "score_function": locs**4 + 18 * locs**2 + 15 - 4 * locs**2,
        "reparameterized": 4 * np.ones_like(locs),
    }
    for name, want in truth.items():
        mean, error = np.ravel(moments.mean[name]["loc"]), np.ravel(moments.standard_error[name]["loc"])
        worst = max(worst, float(np.max(np.abs(mean - 2 * locs) / error)))
        variance = max(variance, float(np.max(np.abs(np.ravel(moments.variance[name]["loc"]) * n / want - 1))))
    return {"largest z": worst, "largest relative error of a variance": variance}


def fits(count: int, steps: int, trace: bool, estimator: Any = None) -> Callable[[int], dict[str, float]]:
    """A job that fits N(mu, sigma^2) to N(3, 2^2) with Adam, many times at once. It returns the medians of the ends."""
    optimizer = optax.adam(0.05)
    chosen = estimator or rgrad.reparameterized

    def loss(params: Any, key: Any) -> Any:
        q = dist.Normal(params["mu"], jnp.exp(params["log_sigma"]))
        return rgrad.expect(lambda y: (y - 3.0) ** 2 / 8, q, key, 10, chosen) - params["log_sigma"]

    options: dict[str, Any] = {} if trace else {"record": None}
    fit = lambda key: rgrad.fit(loss, {"mu": 0.0, "log_sigma": 0.0}, optimizer, key, steps, **options)

    def job(seed: int) -> dict[str, float]:
        ends = jax.block_until_ready(jax.vmap(fit)(jax.random.split(jax.random.key(seed), count)))
        mu, log_sigma = np.asarray(ends.params["mu"]), np.asarray(ends.params["log_sigma"])
        stopped = int(np.sum(np.asarray(ends.stopped_at) >= 0))
        return {"mu": float(np.median(mu)), "sigma": float(np.exp(np.median(log_sigma))), "stopped": stopped}

    return job


def fitted_right(found: dict[str, float], off: float) -> bool:
    return abs(found["mu"] - 3) < off and abs(found["sigma"] - 2) < off and not found.get("stopped")
