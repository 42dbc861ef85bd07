"""The objectives of `experiments.fit`: what to minimise over q = N(mu, sigma^2), given x_1 .. x_n.

Each objective is `E_q[sampled(y)] + rest`. The first part is estimated from samples of q, the second is known exactly.
`expected` is the whole objective in closed form. It gives the exact gradient and the minimiser without sampling.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.stats import norm

from experiments.fit.data import Data


class Statistics(NamedTuple):
    """The data in the form that the objectives need, so that sums over observations cost O(log n) or O(1)."""

    x: Array
    """Sorted, shape (n,)."""
    sums: Array
    """Sums of the k smallest values, k = 0 .. n, shape (n + 1,)."""
    n: float
    mean: Array
    variance: Array


class Objective(NamedTuple):
    """An objective of (mu, sigma). `d` is the `Statistics` of the data."""

    sampled: Callable[[Array, Statistics], Array] | None
    """Maps one sample to a scalar. None if nothing is sampled."""
    rest: Callable[[Array, Array, Statistics], Any]
    expected: Callable[[Array, Array, Statistics], Array]
    unit: Callable[[Data], float]
    """Approximate size, so that a learning rate has the same meaning for all data. Only the step uses it."""
    pair: bool = False
    """Whether a sample is a pair (y, y') of independent draws."""


def statistics(data: Data) -> Statistics:
    x = np.sort(data.x)
    sums = np.concatenate([[0.0], np.cumsum(x)])
    return Statistics(
        jnp.asarray(x, float), jnp.asarray(sums, float), float(x.size), jnp.asarray(x.mean()), jnp.asarray(x.var())
    )


def sum_of_distances(y: Array, d: Statistics) -> Array:
    """`sum_i |y - x_i|`. With k observations up to y: `k y - (their sum) + (sum of the others) - (n - k) y`."""
    k = jnp.searchsorted(d.x, y)
    return (2 * k - d.n) * y + d.sums[-1] - 2 * d.sums[k]


def normal(mu: Array, sigma: Array, pair: bool) -> Any:
    """q, or two independent draws of q as one event."""
    q = dist.Normal(mu, sigma)
    return q.expand([2]).to_event(1) if pair else q


def squared_error() -> Objective:
    """`E sum_i (y - x_i)^2`: the objective of the question. It cannot find sigma.

    With the sample mean m and variance s^2 of the data, `sum_i (y - x_i)^2 = n ((y - m)^2 + s^2)`, so the expectation
    is `n ((mu - m)^2 + sigma^2 + s^2)`. The derivatives are `2 n (mu - m)`, `2 n sigma` and, for sigma^2, n. The
    minimum is at mu = m and sigma = 0. Both estimators agree on this. The objective is wrong for this purpose: the
    squared error is minimised by a point mass at the mean.
    """
    return Objective(
        sampled=lambda y, d: d.n * ((y - d.mean) ** 2 + d.variance),
        rest=lambda mu, sigma, d: 0.0,
        expected=lambda mu, sigma, d: d.n * ((mu - d.mean) ** 2 + sigma**2 + d.variance),
        unit=lambda data: data.x.size * data.sigma**2,
    )


def energy_score() -> Objective:
    """`sum_i E|y - x_i| - n E|y - y'| / 2`: the continuous ranked probability score, summed over the observations.

    A proper score (Gneiting and Raftery 2007): it is minimised by the distribution of the data, so it finds sigma too.
    Compared with the squared error it has a second term, which rewards a spread. For a normal, with
    z_i = (mu - x_i) / sigma, `E|y - x_i| = sigma (z_i (2 Phi(z_i) - 1) + 2 phi(z_i))` and
    `E|y - y'| = 2 sigma / sqrt(pi)`. If the data are not normal, its minimiser differs from the maximum-likelihood estimate.
    """

    def expected(mu: Array, sigma: Array, d: Statistics) -> Array:
        z = (mu - d.x) / sigma
        return jnp.sum(sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z))) - d.n * sigma / jnp.sqrt(jnp.pi)

    return Objective(
        sampled=lambda y, d: (sum_of_distances(y[0], d) + sum_of_distances(y[1], d) - d.n * jnp.abs(y[0] - y[1])) / 2,
        rest=lambda mu, sigma, d: 0.0,
        expected=expected,
        unit=lambda data: data.x.size * data.sigma,
        pair=True,
    )


def kl() -> Objective:
    """`KL(q, N(m, s^2))`, as a negative ELBO: `-E_q[log N(y; m, s^2)] - H[q]`, with mean m and variance s^2 of the data.

    `((mu - m)^2 + sigma^2) / (2 s^2) + log(s / sigma) - 1/2`; the derivatives are `(mu - m) / s^2` and
    `sigma / s^2 - 1 / sigma`. Compared with the squared error it has the entropy of q, `log sigma + log(2 pi e) / 2`,
    which keeps sigma away from 0. It is *given* m and s^2, so it only shows the mechanism.
    """
    return Objective(
        sampled=lambda y, d: -norm.logpdf(y, d.mean, jnp.sqrt(d.variance)),
        rest=lambda mu, sigma, d: -jnp.log(sigma) - 0.5 * jnp.log(2 * jnp.pi * jnp.e),
        expected=lambda mu, sigma, d: (
            ((mu - d.mean) ** 2 + sigma**2) / (2 * d.variance) + 0.5 * jnp.log(d.variance) - jnp.log(sigma) - 0.5
        ),
        unit=lambda data: 1.0,
    )


def negative_log_likelihood() -> Objective:
    """`-sum_i log N(x_i; mu, sigma^2) = n (log sigma + ((mu - m)^2 + s^2) / (2 sigma^2) + log(2 pi) / 2)`.

    The reference. Nothing is sampled. It is minimised by the maximum-likelihood mu = m and sigma^2 = mean(x^2) - m^2.
    """

    def expected(mu: Array, sigma: Array, d: Statistics) -> Array:
        return d.n * (jnp.log(sigma) + ((mu - d.mean) ** 2 + d.variance) / (2 * sigma**2) + 0.5 * jnp.log(2 * jnp.pi))

    return Objective(None, expected, expected, unit=lambda data: float(data.x.size))


OBJECTIVES: dict[str, Objective] = {
    "squared_error": squared_error(),
    "energy_score": energy_score(),
    "kl": kl(),
    "negative_log_likelihood": negative_log_likelihood(),
}


class Parametrisation(NamedTuple):
    """A parameter in place of sigma: how to convert it, and its approximate size for data with a given sigma."""

    to_sigma: Callable[[Any], Any]
    from_sigma: Callable[[Any], Any]
    unit: Callable[[float], float]


PARAMETRISATIONS: dict[str, Parametrisation] = {
    "sigma": Parametrisation(lambda s: s, lambda s: s, lambda unit: unit),
    "log_sigma": Parametrisation(jnp.exp, jnp.log, lambda unit: 1.0),
    "variance": Parametrisation(jnp.sqrt, jnp.square, lambda unit: unit**2),
}


def minimiser(objective: Objective, data: Data) -> tuple[float, float]:
    """(mu, sigma) that minimise the expected objective, found numerically in 64 bits. sigma is 0 if it tends to 0."""
    import jax
    from scipy.optimize import minimize

    with jax.enable_x64(True):
        d = statistics(data)
        scale, centre = data.sigma, data.mean
        value = jax.jit(
            lambda u: objective.expected(centre + scale * u[0], scale * jnp.exp(u[1]), d) / objective.unit(data)
        )
        found = minimize(lambda u: float(value(u)), np.array([0.5, 0.5]), method="Nelder-Mead",
                         options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000})  # fmt: skip
    sigma = scale * float(np.exp(found.x[1]))
    return centre + scale * float(found.x[0]), 0.0 if sigma < 1e-4 * scale else sigma
