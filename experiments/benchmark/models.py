"""The section `svi` of `experiments.benchmark`: steps of NumPyro's SVI on a real model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import Array
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from sklearn.datasets import load_breast_cancer

import rgrad
from experiments.benchmark.rivals import OURS, WrongResult
from experiments.benchmark.study import Row, compared, in_turn, seconds_of
from experiments.common.progress import Advance

PARTICLES = (1, 10)
STEPS = 200  # in one turn


def logistic() -> None:
    """Bayesian logistic regression of scikit-learn's breast cancer data, 569 x 30."""
    x, y = load_breast_cancer(return_X_y=True)
    x = jnp.asarray((x - x.mean(0)) / x.std(0), jnp.float32)
    weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=jnp.asarray(y, jnp.float32))


def svi_section(settings: Any, advance: Advance) -> list[Row]:
    """Steps per second of SVI with an `AutoNormal` guide, and programs compiled per second, against NumPyro's loss."""
    rows: list[Row] = []
    for particles in PARTICLES:
        losses = {OURS: rgrad.SVILoss(particles), "Trace_ELBO": Trace_ELBO(particles)}
        ready = {name: _compiled(loss) for name, loss in losses.items()}
        jobs: dict[str, Callable[[int], float]] = {
            name: partial(_steps_per_second, run, state) for name, (run, state) in ready.items()
        }
        of = f"Trace_ELBO, {particles} particle{'s' * (particles > 1)}"
        rows += named(
            compared("svi", particles, in_turn(jobs, settings.rounds, advance), 1), f"{of}: a step", bool(rows)
        )
        _check({name: run(state)[1] for name, (run, state) in ready.items()}, particles)
        jobs = {name: partial(_compilations_per_second, loss) for name, loss in losses.items()}
        rows += named(
            compared("svi", particles, in_turn(jobs, settings.rounds, advance), 1), f"{of}: compilation", True
        )
    return rows


def _compiled(loss: Any) -> tuple[Any, Any]:
    """A program of `STEPS` steps, compiled anew, and the state that it starts from."""
    svi = SVI(logistic, AutoNormal(logistic), optax.adam(0.01), loss)
    state = svi.init(jax.random.key(0))

    def steps(state: Any) -> tuple[Any, Array]:
        return jax.lax.scan(lambda state, _: svi.update(state), state, length=STEPS)

    return jax.jit(steps).lower(state).compile(), state


def _steps_per_second(run: Any, state: Any, turn: int) -> float:
    return STEPS / seconds_of(lambda: jax.block_until_ready(run(state)))[0]


def _compilations_per_second(loss: Any, turn: int) -> float:
    return 1 / seconds_of(partial(_compiled, loss))[0]


def named(rows: list[Row], contender: str, drop_ours: bool) -> list[Row]:
    return [r if r["contender"] == OURS else {**r, "contender": contender} for r in rows][drop_ours:]


def _check(losses: dict[str, Array], particles: int) -> None:
    """Checks that the last losses agree. They have the same distribution, and vary by a few per cent.

    Raises:
        WrongResult: they do not.
    """
    last = {name: float(np.mean(values[-20:])) for name, values in losses.items()}
    if not abs(last[OURS] / last["Trace_ELBO"] - 1) < 0.2:
        raise WrongResult(f"SVI, {particles} particles: losses {last}, which should be nearly the same")
