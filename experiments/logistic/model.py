"""Bayesian logistic regression: its log density, the families of q, and its ELBO with every estimator."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.loading import load_estimator
from rgrad.expectations import Entropy

Params = dict[str, Any]  # by name, arrays
BEGIN = -1.0  # initial log scale of q, in standard deviations of the prior


class Model(NamedTuple):
    """`y_i ~ Bernoulli(sigmoid(x_i . w))`, independent, and `w ~ N(0, I)`."""

    x: Array
    """Shape (rows, D). The first column is 1."""
    y: Array
    """0.0 or 1.0, shape (rows,)."""

    def log_g(self, w: Array) -> Array:
        """`log p(w) + sum_i log p(y_i | x_i, w)`, with all constants: a scalar."""
        return log_prior(w) + log_likelihood(w, self.x, self.y)

    def log_g_of(self, rows: Array, w: Array) -> Array:
        """The same from a minibatch of B different rows: `log p(w) + N/B sum_{i in rows} log p(y_i | x_i, w)`.

        Its mean over all minibatches of that size is `log_g(w)`.
        """
        return log_prior(w) + len(self.y) / rows.size * log_likelihood(w, self.x[rows], self.y[rows])

    def draw_rows(self, batch: int, key: Array) -> Array:
        """`batch` different rows. Every set of rows is equally likely."""
        return jax.random.choice(key, len(self.y), (batch,), replace=False)


def log_prior(w: Array) -> Array:
    return dist.Normal(0.0, 1.0).log_prob(w).sum()


def log_likelihood(w: Array, x: Array, y: Array) -> Array:
    return jax.nn.log_sigmoid((2 * y - 1) * (x @ w)).sum()


class PosteriorFamily(NamedTuple):
    start: Callable[[int], Params]
    """Maps the number of weights to the initial parameters."""
    distribution: Callable[[Params], Any]


def _begin(size: int) -> Params:
    return {"loc": jnp.zeros(size), "log_diagonal": jnp.full(size, BEGIN)}


def _mean_field(p: Params) -> Any:
    return dist.Normal(p["loc"], jnp.exp(p["log_diagonal"])).to_event(1)


def _full(p: Params) -> Any:
    factor = jnp.tril(p["below"], -1) + jnp.diag(jnp.exp(p["log_diagonal"]))
    return dist.MultivariateNormal(p["loc"], scale_tril=factor)


FAMILIES: Mapping[str, PosteriorFamily] = {
    "mean_field": PosteriorFamily(_begin, _mean_field),
    "full": PosteriorFamily(lambda size: _begin(size) | {"below": jnp.zeros((size, size))}, _full),
}


def standard_deviations(params: Params) -> np.ndarray:
    """Standard deviation of each weight under q, in 64 bits. Shape (..., D) for leading axes of the parameters."""
    with np.errstate(over="ignore"):  # in a fit that stopped
        square = np.exp(2 * np.asarray(params["log_diagonal"], float))
        if "below" in params:
            square = square + (np.tril(np.asarray(params["below"], float), -1) ** 2).sum(-1)
    return np.sqrt(square)


class LogisticWay(NamedTuple):
    estimator: rgrad.Estimator
    entropy: Entropy


# With the reparameterization trick, the exact and the sampled entropy give the same gradient, and the exact one does
# not need log q. The score function uses the sampled one: near the optimum, log g varies, but log g - log q hardly
# does.
WAYS: Mapping[str, LogisticWay] = {
    "reparameterized": LogisticWay(load_estimator("reparameterized"), "exact"),
    "sticking_the_landing": LogisticWay(load_estimator("reparameterized"), "detached"),
    "score_function+leave_one_out": LogisticWay(load_estimator("score_function+leave_one_out"), "sampled"),
    "score_function": LogisticWay(load_estimator("score_function"), "sampled"),
    "score_function+exact_entropy": LogisticWay(load_estimator("score_function"), "exact"),
}


def load_way(name: str) -> LogisticWay:
    """The estimator and entropy with this name, or the user's own `module:function` with the sampled entropy.

    Raises:
        UsageError: there is none.
    """
    if name in WAYS:
        return WAYS[name]
    if ":" in name:
        return LogisticWay(load_estimator(name), "sampled")
    raise UsageError(f"--estimators {name}: unknown name{nearest(name, WAYS)}, or your own as module:function")


def elbo_of(
    model: Model, family: str, way: LogisticWay, params: Params, key: Array, n: int, batch: int | None
) -> Array:
    """One estimate of the ELBO from n samples, with the gradient of `way`: a scalar, per call."""
    for_rows, for_samples = jax.random.split(key)
    log_g = model.log_g if batch is None else partial(model.log_g_of, model.draw_rows(batch, for_rows))
    return rgrad.elbo(log_g, FAMILIES[family].distribution(params), for_samples, n, way.estimator, way.entropy)
