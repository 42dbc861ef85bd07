"""The posterior from a long NUTS run on the model with z summed out, as a reference for the fits."""

import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_sample

from experiments.svi.exact import assignments
from experiments.svi.model import marginal_model


class NutsPosterior(NamedTuple):
    """The posterior of the four globals: log odds, two means and the log standard deviation."""

    theta: np.ndarray
    """Draws, shape (draws, 4)."""
    assignments: np.ndarray
    """`P(z_i = 1 | x)`, shape (rows,)."""
    r_hat: float
    """The largest split Gelman-Rubin statistic, close to 1 if the chains agree."""
    effective: float
    """The smallest effective sample size."""
    seconds: float
    """The run time, including compilation."""


def sample_mixture(x: np.ndarray, key: Array, chains: int, warmup: int, draws: int) -> NutsPosterior:
    """`chains` chains of `draws` draws after `warmup`. They start from draws of the prior."""
    began = time.perf_counter()
    kernel = NUTS(marginal_model, init_strategy=init_to_sample)
    chain = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, chain_method="vectorized",
        progress_bar=False,
    )  # fmt: skip
    chain.run(key, jnp.asarray(x, float))
    found = {k: np.asarray(v, np.float64) for k, v in chain.get_samples(group_by_chain=True).items()}
    by_chain = np.concatenate([found["odds"][..., None], found["mean"], np.log(found["sd"])[..., None]], -1)
    theta = by_chain.reshape(-1, by_chain.shape[-1])
    r_hat, effective = split_gelman_rubin(by_chain).max(), effective_sample_size(by_chain).min()
    return NutsPosterior(theta, assignments(theta, x), float(r_hat), float(effective), time.perf_counter() - began)
