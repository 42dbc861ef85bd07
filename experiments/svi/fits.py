"""Many simultaneous fits with NumPyro's SVI."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.common.progress import Advance
from experiments.svi.exact import elbos
from experiments.svi.model import SviWay, quiet

ROUNDS = 5  # of the timing. The fastest counts


class SviFits(NamedTuple):
    """Fits with one loss. Axes (points, rates, seeds)."""

    params: Mapping[str, np.ndarray]
    """Constrained."""
    elbo: np.ndarray
    """Exact."""
    steps: np.ndarray
    """Steps at each point, shape (points,)."""
    seconds: np.ndarray
    """Seconds of one fit at each point: processor time of the program without compilation, divided by the number of fits."""
    chosen: int
    """The index of the rate with the largest mean ELBO at the end."""

    @property
    def final(self) -> np.ndarray:
        """The last ELBO at the chosen rate, shape (seeds,)."""
        return np.asarray(self.elbo[-1, self.chosen])


class SviProgram:
    """The compiled fits with one loss: `seeds` fits for each rate, at once, for any number of steps."""

    def __init__(self, way: SviWay, x: np.ndarray, settings: Any, key: Array):
        data, points = jnp.asarray(x, float), min(settings.points, settings.steps)

        def fit(rate: Array, length: Array, key: Array) -> Any:
            """The constrained parameters after each of `points` pieces of `length` steps."""
            cosine = lambda step: rate * (1 + jnp.cos(jnp.pi * jnp.minimum(step / (points * length), 1.0))) / 2
            svi = way.svi(settings.num_particles, cosine)
            # A step that is not finite is refused.
            step = lambda _, state: svi.stable_update(state, data)[0]

            def piece(state: Any, _: None) -> tuple[Any, Any]:
                state = jax.lax.fori_loop(0, length, step, state)
                return state, svi.get_params(state)

            return jax.lax.scan(piece, svi.init(key, data), None, points)[1]

        lanes = jax.vmap(jax.vmap(fit, (None, None, 0), 1), (0, None, None), 1)  # points first
        self.rates = jnp.asarray(settings.learning_rates, float)
        self.keys = jax.random.split(key, settings.seeds)  # the same for each rate
        self.way, self.x, self.points = way, x, points
        with quiet():
            self.program = jax.jit(lanes).lower(self.rates, jnp.int32(1), self.keys).compile()

    def length(self, steps: int) -> int:
        """Steps of a piece, at least one, so that a fit has about this many steps."""
        return max(1, round(steps / self.points))

    def timed(self, length: int) -> tuple[Any, float]:
        """The parameters, and the seconds of one step of one fit. On a CPU they are of processor time, unless that is more."""
        began = time.perf_counter(), time.process_time()
        path = jax.block_until_ready(self.program(self.rates, jnp.int32(length), self.keys))
        seconds = time.perf_counter() - began[0]
        if jax.default_backend() == "cpu":  # other programs on the same cores do not count
            seconds = min(seconds, time.process_time() - began[1])
        return path, seconds / (length * self.points * len(self.rates) * len(self.keys))

    def fits(self, length: int, seconds: float) -> SviFits:
        """`seconds`: of one step of one fit."""
        path = jax.tree.map(np.asarray, self.timed(length)[0])
        elbo = elbos(path, self.x, self.way.marginal)
        worth = np.where(np.isfinite(elbo[-1]), elbo[-1], -np.inf).mean(1)
        steps = length * np.arange(1, self.points + 1)
        return SviFits(path, elbo, steps, steps * seconds, int(np.argmax(worth)))


def seconds_of_a_step(programs: Mapping[str, SviProgram], steps: int, advance: Advance) -> dict[str, float]:
    """Of one fit with each loss, from short runs in turn."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            found[name].append(program.timed(program.length(max(1, steps // 30)))[1])
            advance(1 / ROUNDS)
    return {name: min(seconds) for name, seconds in found.items()}
