"""The fit loop of `experiments.benchmark`: many simultaneous fits of a normal to N(3, 2^2), with two estimators.

The loss is KL(N(mu, sigma^2), N(3, 2^2)) up to a constant: (y - 3)^2 / 8, estimated from samples of y, minus log sigma.
Plain Adam starts from mu = 0 and sigma = 1. Half of the fits use reparameterization, half the score function.
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
from experiments.benchmark.rivals import OURS, Missing, WrongResult, best_threads, torch_module

SAMPLES = 10  # samples in one gradient
RATE = 0.05
OPTIMIZER = optax.adam(RATE)
MU, SIGMA = 3.0, 2.0  # the fits end here, up to noise
Fitted = tuple[np.ndarray, np.ndarray]
"""mu and sigma of each fit, shape (2, fits): reparameterization first, then the score function."""
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


def torch_loss(params: Any, e: Any) -> Any:
    """The sum of the losses of all fits. `params` holds mu and log sigma for both estimators, shape (2, 2, fits)."""
    mu, log_sigma = params
    y = mu[..., None] + log_sigma.exp()[..., None] * e
    x = y[1].detach()
    log_q = -(((x - mu[1, :, None]) / log_sigma[1, :, None].exp()) ** 2) / 2 - log_sigma[1, :, None]
    f = lambda y: (y - MU) ** 2 / (2 * SIGMA**2)
    return (f(y[0]).sum() + (f(x) * log_q).sum()) / SAMPLES - log_sigma.sum()


def torch_job(torch: Any, steps: int, run: Callable[[int], Any]) -> FitJob:
    """A job that calls `run(steps)`, which returns the final parameters, with the best number of threads."""
    set_threads = best_threads(torch, lambda: run(50))

    def job(seed: int) -> Fitted:
        set_threads()
        torch.manual_seed(seed)
        mu, log_sigma = run(steps).detach().cpu()
        return mu.numpy(), log_sigma.exp().numpy()

    return job


def torch_batched(steps: int, fits: int) -> FitJob:
    """One tensor for all fits, with one backward pass and one fused Adam update per step."""
    torch = torch_module()

    def run(steps: int) -> Any:
        params = torch.zeros(2, 2, fits, requires_grad=True)
        optimizer = torch.optim.Adam([params], RATE, fused=True)
        for _ in range(steps):
            optimizer.zero_grad()
            torch_loss(params, torch.randn(2, fits, SAMPLES)).backward()
            optimizer.step()
        return params

    return torch_job(torch, steps, run)


def torch_compiled(steps: int, fits: int) -> FitJob:
    """The same with Adam written out in the compiled step. Random numbers are drawn outside."""
    torch = torch_module()
    torch.compiler.reset()

    def step(params: Any, m: Any, v: Any, t: Any, e: Any) -> Any:
        g = torch.func.grad(torch_loss)(params, e)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        return params - RATE * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8), m, v

    compiled = torch.compile(step, dynamic=False)

    def run(steps: int) -> Any:
        state, times = (torch.zeros(2, 2, fits),) * 3, torch.arange(1.0, steps + 1)
        for t in times:
            state = compiled(*state, t, torch.randn(2, fits, SAMPLES))
        return state[0]

    try:
        run(1)
    except Exception as error:
        raise Missing(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from None
    return torch_job(torch, steps, run)


def jax_batched(steps: int, fits: int) -> FitJob:
    """All fits in one array, with one key per step: JAX and optax without checks and records."""
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
    "torch.compile": torch_compiled,
    "jax streamed": jax_batched,
}


def check(name: str, fitted: Fitted) -> None:
    """Checks that the medians over the fits are mu and sigma, within 0.1 and 8 standard errors.

    Raises:
        WrongResult: a median is off.
    """
    for what, x, truth in zip(("mu", "sigma"), fitted, (MU, SIGMA), strict=True):
        error = 1.25 * x.std(1) / x.shape[1] ** 0.5
        median = np.median(x, 1)
        if not np.all(np.abs(median - truth) <= 0.1 + 8 * error):
            raise WrongResult(f"{name}: the fits end at {what} = {median}, expected {truth:g}")
