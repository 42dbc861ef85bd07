"""The linear-Gaussian model of Rainforth et al. 2018, and the measurement of its gradients."""

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from scipy.special import stdtrit

import rgrad
from experiments.common.progress import Advance

PARTS = 10  # the jackknife divides the replicates into this many parts
BLOCK = 64  # data points that are computed at once, which fit into a cache
Params = dict[str, Array]


def data_and_optimum(key: Array, points: int, dimension: int) -> tuple[Array, Params]:
    """Data x drawn from the model with mu ~ N(0, I), shape `(points, dimension)`, and the optimum for any K.

    At the optimum, mu is the mean of the data, and q has the mean of the posterior, (x + mu) / 2. The variance of q is
    fixed at 2/3. That of the posterior is 1/2.
    """
    for_mu, for_x = jax.random.split(key)
    x = jax.random.normal(for_mu, (dimension,)) + 2**0.5 * jax.random.normal(for_x, (points, dimension))
    return x, {"A": jnp.eye(dimension) / 2, "b": x.mean(0) / 2, "mu": x.mean(0)}


def bound(params: Params, x: Array, key: Array, k: int, gradient: rgrad.Estimator) -> Array:
    """The K-sample bound on log p(x) of one data point, up to a constant."""
    q = dist.Normal(params["A"] @ x + params["b"], (2 / 3) ** 0.5).to_event(1)
    log_p = lambda z: -jnp.sum((z - params["mu"]) ** 2 + (x - z) ** 2) / 2
    return rgrad.iwae(log_p, q, key, k, gradient=gradient)


def measured_rows(settings: Any, key: Array, advance: Advance) -> list[dict[str, Any]]:
    """A row for each distance, K, estimator and parameter. Rows with the same K share their samples."""
    for_data, for_direction, for_draws = jax.random.split(key, 3)
    data, optimum = data_and_optimum(for_data, settings.data_points, settings.dimension)
    keys = dict(zip(optimum, jax.random.split(for_direction, len(optimum)), strict=True))
    direction = {name: jax.random.normal(keys[name], value.shape) for name, value in optimum.items()}
    at = lambda distance: {name: value + distance * direction[name] for name, value in optimum.items()}
    params = jax.vmap(at)(jnp.array(settings.perturbations))
    rows = []
    for k in settings.k:
        draw = partial(gradients, params, data, k, settings.estimators)
        parts = []
        edges = np.linspace(0, settings.replicates, PARTS + 1).astype(int).tolist()
        for first, end in pairwise(edges):
            parts.append(rgrad.measure(draw, jax.random.fold_in(for_draws, k), end - first, start=first))
            advance(k / PARTS)
        for i, distance in enumerate(settings.perturbations):
            for estimator in settings.estimators:
                rows += [_row(parts, estimator, parameter, i, distance, k) for parameter in optimum]
    return rows


def gradients(params: Params, data: Array, k: int, estimators: Sequence[str], key: Array) -> dict[str, Params]:
    """One estimate of the gradient of the mean bound with each estimator, at each of the stacked params."""

    def of_point(x: Array, key: Array) -> dict[str, Params]:
        return jax.vmap(lambda p: {name: jax.grad(bound)(p, x, key, k, getattr(rgrad, name)) for name in estimators})(
            params
        )

    keys = jax.random.split(key, len(data))
    each = jax.lax.map(lambda pair: of_point(*pair), (data, keys), batch_size=BLOCK)
    return jax.tree.map(lambda g: g.mean(0), each)


def _row(
    parts: list[rgrad.Moments], estimator: str, parameter: str, place: int, distance: float, k: int
) -> dict[str, Any]:
    """A row with a jackknife interval, because the coordinates of one gradient are dependent."""
    mine = [rgrad.Moments(m.count, *(tree[estimator][parameter][place] for tree in m[1:])) for m in parts]
    whole = _merged(mine)
    without = np.array([_snr(_merged(mine[:i] + mine[i + 1 :])) for i in range(PARTS)])
    half = float(stdtrit(PARTS - 1, 0.975) * np.sqrt((PARTS - 1) * without.var()))
    # The square of a measured mean is too large by the square of its standard error.
    square = (whole.mean**2 - whole.standard_error**2).sum()
    return {
        "estimator": estimator,
        "parameter": parameter,
        "perturbation": distance,
        "k": k,
        "replicates": int(whole.count),
        "snr": _snr(whole),
        "snr_low": max(0.0, _snr(whole) - half),
        "snr_high": _snr(whole) + half,
        "floor": float(whole.count) ** -0.5,
        "norm": float(np.sqrt(max(0.0, square))),
    }


def _merged(parts: list[rgrad.Moments]) -> rgrad.Moments:
    return reduce(rgrad.Moments.merge, parts)


def _snr(moments: rgrad.Moments) -> float:
    """|mean| / sd, averaged over the coordinates of a parameter."""
    return float((np.abs(moments.mean) / np.sqrt(moments.variance)).mean())
