"""The posterior from a long NUTS run of NumPyro, as a reference for the fits."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS

from experiments.logistic.model import Model


class Posterior(NamedTuple):
    """The posterior of the weights. Every array has shape (D,)."""

    mean: np.ndarray
    sd: np.ndarray
    r_hat: np.ndarray
    """Split Gelman-Rubin statistic, close to 1 if the chains agree."""
    effective: np.ndarray
    """Effective sample size."""
    seconds: float
    """The run time, including compilation."""


def sample_posterior(model: Model, key: Array, chains: int, warmup: int, draws: int) -> Posterior:
    """`chains` chains with a dense mass matrix, each of `draws` draws after `warmup`, on all rows of the model."""
    began = time.perf_counter()
    for_start, for_run = jax.random.split(key)
    kernel = NUTS(potential_fn=lambda w: -model.log_g(w), dense_mass=True)
    chain = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, chain_method="vectorized", progress_bar=False
    )
    start = jax.random.normal(
        for_start, (chains, model.x.shape[1])
    )  # start from the prior, which is wider than the posterior
    chain.run(for_run, init_params=start)
    w = np.asarray(chain.get_samples(group_by_chain=True), np.float64)
    seconds = time.perf_counter() - began
    return Posterior(w.mean((0, 1)), w.std((0, 1), ddof=1), split_gelman_rubin(w), effective_sample_size(w), seconds)


def distance(mean: np.ndarray, posterior: Posterior) -> np.ndarray:
    """The largest distance of a mean from the posterior mean, in posterior standard deviations. Shape (...)."""
    return np.asarray(np.max(np.abs(mean - posterior.mean) / posterior.sd, axis=-1))
