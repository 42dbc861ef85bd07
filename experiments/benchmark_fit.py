"""The fit loop of `experiments.benchmark`: many fits at once of a normal to N(3, 2^2), by two estimators.

KL(N(mu, sigma^2), N(3, 2^2)) up to a constant, (y - 3)^2 / 8 by samples of y and -log sigma, by plain Adam from
mu = 0 and sigma = 1; half of the fits by reparameterization, half by the score function.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jax import Array

import rgrad
from experiments.benchmark_rivals import OURS, WrongResult, best_threads, torch_module

SAMPLES = 10  # of a gradient
RATE = 0.05
OPTIMIZER = optax.adam(RATE)
MU, SIGMA = 3.0, 2.0  # where the fits end, up to noise
Fitted = tuple[np.ndarray, np.ndarray]
"""mu and sigma of each fit, shape (2, fits): by reparameterization, by the score function."""
FitJob = Callable[[int], Fitted]


def ours(steps: int, fits: int) -> FitJob:
    def loss(estimator: rgrad.Estimator, params: Any, key: Array) -> Array:
        q = dist.Normal(params["mu"], jnp.exp(params["log_sigma"]))
        return rgrad.expect(lambda y: (y - MU) ** 2 / (2 * SIGMA**2), q, key, SAMPLES, estimator) - params["log_sigma"]

    losses = [partial(loss, e) for e in (rgrad.reparameterized, rgrad.score_function)]
    start = {"mu": 0.0, "log_sigma": 0.0}

    def all_fits(loss: Any, keys: Array) -> Any:
        fit = lambda key: rgrad.fit(loss, start, OPTIMIZER, key, steps, record=None).params
        return jax.block_until_ready(jax.vmap(fit)(keys))

    def job(seed: int) -> Fitted:
        with ThreadPoolExecutor() as pool:
            ends = list(pool.map(all_fits, losses, jax.random.split(jax.random.key(seed), (2, fits))))
        return np.array([e["mu"] for e in ends]), np.exp([e["log_sigma"] for e in ends])

    return job


def torch_batched(steps: int, fits: int) -> FitJob:
    """One tensor for all fits, one backward pass and one fused Adam for each step."""
    torch = torch_module()

    def run(steps: int, seed: int) -> Fitted:
        torch.manual_seed(seed)
        mu, log_sigma = torch.zeros(2, fits, requires_grad=True), torch.zeros(2, fits, requires_grad=True)
        optimizer = torch.optim.Adam([mu, log_sigma], RATE, fused=True)
        for _ in range(steps):
            optimizer.zero_grad()
            y = mu[..., None] + log_sigma.exp()[..., None] * torch.randn(2, fits, SAMPLES)
            x = y[1].detach()
            log_q = -(((x - mu[1, :, None]) / log_sigma[1, :, None].exp()) ** 2) / 2 - log_sigma[1, :, None]
            f = lambda y: (y - MU) ** 2 / (2 * SIGMA**2)
            loss = (f(y[0]).sum() + (f(x) * log_q).sum()) / SAMPLES - log_sigma.sum()
            loss.backward()
            optimizer.step()
        return mu.detach().cpu().numpy(), log_sigma.detach().exp().cpu().numpy()

    set_threads = best_threads(torch, lambda: run(50, 0))

    def job(seed: int) -> Fitted:
        set_threads()
        return run(steps, seed)

    return job


def jax_batched(steps: int, fits: int) -> FitJob:
    """All fits in one array, with one key for a step: what JAX and optax do where nothing is checked or recorded."""
    f = lambda y: (y - MU) ** 2 / (2 * SIGMA**2)

    def loss(params: Any, key: Array) -> Array:
        mu, log_sigma = params
        y = mu[..., None] + jnp.exp(log_sigma)[..., None] * jax.random.normal(key, (2, fits, SAMPLES))
        x = jax.lax.stop_gradient(y[1])
        log_q = dist.Normal(mu[1, :, None], jnp.exp(log_sigma[1, :, None])).log_prob(x)
        return (f(y[0]).sum() + (f(x) * log_q).sum()) / SAMPLES - log_sigma.sum()

    @jax.jit
    def all_fits(key: Array) -> Any:
        def step(carry: Any, t: Array) -> Any:
            params, state = carry
            updates, state = OPTIMIZER.update(jax.grad(loss)(params, jax.random.fold_in(key, t)), state)
            return (optax.apply_updates(params, updates), state), None

        start = (jnp.zeros((2, fits)),) * 2
        return jax.lax.scan(step, (start, OPTIMIZER.init(start)), jnp.arange(steps))[0][0]

    def job(seed: int) -> Fitted:
        mu, log_sigma = all_fits(jax.random.key(seed))
        return np.asarray(mu), np.exp(log_sigma)

    return job


CONTENDERS: dict[str, Callable[[int, int], FitJob]] = {
    OURS: ours,
    "torch eager": torch_batched,
    "jax streamed": jax_batched,
}


def check(name: str, fitted: Fitted) -> None:
    """The medians over the fits are at mu and sigma, within 0.1 and 8 of their standard errors.

    Raises:
        WrongResult: they are not.
    """
    for what, x, truth in zip(("mu", "sigma"), fitted, (MU, SIGMA), strict=True):
        error = 1.25 * x.std(1) / x.shape[1] ** 0.5
        median = np.median(x, 1)
        if not np.all(np.abs(median - truth) <= 0.1 + 8 * error):
            raise WrongResult(f"{name}: the fits end at {what} = {median} for {truth:g}")
