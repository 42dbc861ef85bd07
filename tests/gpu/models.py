"""Parts e1 and e2: the models of experiments.logistic and experiments.vae, trained on the accelerator and on the CPU.

The packages of the experiments read their settings with pydantic, which may be missing. The modules that are used here
do not need it, so they are imported without the `__init__.py` of their package.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.distributions.distribution import validation_enabled

import experiments
import rgrad
from tests.gpu.context import Context, SkippedPart, seconds_of
from tests.gpu.report import say

MOST_GAP = 5.0  # standard errors of the difference of two means


def experiment_module(name: str, module: str) -> Any:
    """The module `experiments.NAME.MODULE`, without running `experiments/NAME/__init__.py`."""
    package = f"experiments.{name}"
    if package not in sys.modules:
        bare = types.ModuleType(package)
        bare.__path__ = [str(Path(experiments.__file__).parent / name)]
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{module}")


def devices() -> dict[str, Any]:
    """The accelerator and the CPU. In a rehearsal they are the same."""
    return {"here": jax.devices()[0], "cpu": jax.devices("cpu")[0]}


def need_sklearn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise SkippedPart("scikit-learn is not installed; the data come from it")


def compare(ctx: Context, label: str, here: np.ndarray, cpu: np.ndarray, slack: float) -> None:
    """Check that two sets of runs have the same mean, within 5 standard errors and `slack`."""
    error = float(np.sqrt(here.var(ddof=1) / len(here) + cpu.var(ddof=1) / len(cpu)))
    gap = float(here.mean() - cpu.mean())
    ok = bool(np.all(np.isfinite(here)) and np.all(np.isfinite(cpu)) and abs(gap) <= MOST_GAP * error + slack)
    ctx.check(label, ok, gap=gap, **{"standard error": error, "mean here": here.mean(), "mean on the CPU": cpu.mean()})


def logistic(ctx: Context) -> None:
    """The ELBO after fits of Bayesian logistic regression, in nats, from the same keys."""
    need_sklearn()
    data, model, task = (experiment_module("logistic", name) for name in ("data", "model", "task"))
    rows = data.split(data.load_table(None, None), 0.2, 0)
    plan = task.LogisticPlan((0.01,), ctx.size(5, 2), ctx.size(2_000, 20), 10, 1, None)
    names = ("reparameterized", "sticking_the_landing", "score_function+leave_one_out")
    for family, name in [(f, w) for f in ("mean_field", "full") for w in names][: ctx.size(None, 1)]:
        elbos = {}
        for where, device in devices().items():
            label = f"{family}, {name}, {where}"
            if not ctx.enough(ctx.size(4, 1), label):
                continue
            with jax.default_device(device), validation_enabled(False):
                of = model.Model(jnp.asarray(rows.x, float), jnp.asarray(rows.y, float))
                way, key, ignore = model.WAYS[name], jax.random.key(0), lambda done: None
                whole, runs = seconds_of(lambda of=of: task.run_fits(of, family, way, plan, key, ignore))
                worth = task.judge(rows, family, runs.params, jax.random.key(1), ctx.size(10_000, 1_000))
            elbos[where] = np.ravel(worth.elbo)
            step = float(runs.seconds[-1]) * plan.seeds / plan.steps
            ctx.row(label, **where_is(device), elbo=elbos[where], seconds=whole, **{"seconds a step, all fits": step})
        if len(elbos) == 2:
            compare(ctx, f"{family}, {name}", elbos["here"], elbos["cpu"], 0.1)
            say(f"   {family}, {name}: ELBO {elbos['here'].mean():.2f} here, {elbos['cpu'].mean():.2f} on the CPU")


def where_is(device: Any) -> dict[str, str]:
    return {"device": device.platform, "chip": device.device_kind}


def autoencoder(ctx: Context) -> None:
    """The held-out ELBO of a variational autoencoder on 8 x 8 digits, in nats per image, from the same keys."""
    need_sklearn()
    for name in ("reparameterized", "score_function+leave_one_out")[: ctx.size(None, 1)]:
        elbos, run = {}, trainer(ctx, rgrad.ESTIMATORS[name].estimator)
        for where, device in devices().items():
            label = f"{name}, {where}"
            if not ctx.enough(ctx.size(6, 1), label):
                continue
            with jax.default_device(device), validation_enabled(False):
                first, (before, after) = seconds_of(lambda run=run: run(0))
                again, _ = seconds_of(lambda run=run: run(0))
            elbos[where] = after
            ctx.row(label, **where_is(device), elbo=after, seconds=again, **{"seconds, compilation included": first})
            ctx.check(f"{label}: it learns", bool(np.all(after > before + ctx.size(10, 0))), before=before, after=after)
        if len(elbos) == 2:
            compare(ctx, name, elbos["here"], elbos["cpu"], 0.5)
            say(f"   {name}: held-out ELBO {elbos['here'].mean():.2f} here, {elbos['cpu'].mean():.2f} on the CPU")


def trainer(ctx: Context, estimator: Any) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """A job that trains from several keys, and returns the held-out ELBO of each before and after the training."""
    vae = experiment_module("vae", "model")
    digits = importlib.import_module("sklearn.datasets").load_digits().data
    pixels = (digits >= 8).astype(np.float32)
    held, training = pixels[:297], pixels[297:]
    hidden, latents, steps = ctx.size((64, 16, 1_000), (8, 2, 30))
    seeds, batch, n = ctx.size((4, 64, 2), (2, 16, 2))

    def elbo(params: Any, x: Any, key: Any, estimator: Any) -> Any:
        log_g, q = vae.log_joint(params, x, "bernoulli"), vae.posterior(params, x)
        return rgrad.elbo(log_g, q, key, n, estimator, "detached")

    def loss(params: Any, key: Any) -> Any:
        for_images, for_z = jax.random.split(key)
        x = jnp.asarray(training)[jax.random.randint(for_images, (batch,), 0, len(training))]
        return -jax.vmap(partial(elbo, params, estimator=estimator))(x, jax.random.split(for_z, batch)).mean()

    def judge(params: Any) -> Any:
        of = partial(elbo, params, estimator=rgrad.reparameterized)
        return jax.vmap(of)(held, jax.random.split(jax.random.key(9), len(held))).mean()

    def run(key: Any) -> Any:
        for_weights, for_steps = jax.random.split(key)
        params = vae.initial_params(for_weights, pixels.shape[1], hidden, latents)
        end = rgrad.fit(loss, params, optax.adam(0.005), for_steps, steps, record=None)
        return judge(params), judge(end.params)

    program = jax.jit(jax.vmap(run))

    def job(seed: int) -> tuple[np.ndarray, np.ndarray]:
        before, after = program(jax.random.split(jax.random.key(seed), seeds))
        return np.asarray(before, float), np.asarray(after, float)

    return job
