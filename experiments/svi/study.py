"""The measurements of `experiments.svi`: gradients at two places, fits at equal particles and at equal time, posteriors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rgrad
from experiments.common.errors import UsageError
from experiments.common.measuring import usage
from experiments.common.progress import Advance
from experiments.svi.data import Column, load_column
from experiments.svi.exact import assignments, exact_gradient, globals_of, optimum, wide
from experiments.svi.fits import SviFits, SviProgram, seconds_of_a_step
from experiments.svi.model import LOSSES, SviWay, load_way, missing, quiet, warning_of
from experiments.svi.nuts import NutsPosterior, sample_mixture

PLACES = ("start", "optimum")
LIMIT = 6.5  # in standard errors. For the 3,000 means of a run, a false alarm has a probability below 1e-6
RARE = 1_000  # draws of the rarer value of z_i that its mean gradient needs, to be nearly normal
ROUNDING = 1e-6  # of a mean gradient in 32 bits, relative to the larger of 1 and its exact value


class SviTask(NamedTuple):
    settings: Any
    column: Column
    ways: Mapping[str, SviWay]
    skipped: Mapping[str, str]
    """The losses that cannot run here, with the reason."""
    warnings: Mapping[str, str]
    """What NumPyro warns of, by loss."""


class SviPlace(NamedTuple):
    """Where gradients are measured."""

    params: Mapping[str, Any]
    """Of the guide, unconstrained."""
    gradient: Mapping[str, np.ndarray]
    """The exact one, of the loss."""


class SviGradient(NamedTuple):
    """The gradient of one loss in one parameter of the guide, at one place."""

    loss: str
    place: str
    parameter: str
    variance: float
    """Of the estimate, summed over the elements of the parameter."""
    low: float
    high: float
    """The sums of the ends of the 95 % intervals of the elements, which cover at least as much."""
    largest_z: float
    """The largest distance of an element of the mean from the exact gradient, in standard errors."""
    elements: int
    """How many elements were compared."""


class Agreement(NamedTuple):
    """A guide compared with NUTS. Axis (seeds,)."""

    distance: np.ndarray
    """The largest distance of a mean of the four globals from that of NUTS, in its standard deviations."""
    sd_ratio: np.ndarray
    """Standard deviations relative to NUTS, shape (seeds, 4)."""
    assignment: np.ndarray
    """The largest difference in `P(z_i = 1 | x)`."""


class SviStudy(NamedTuple):
    task: SviTask
    best: Mapping[bool, float]
    """The largest ELBO of a guide, by whether z is summed out of the model."""
    gradients: list[SviGradient]
    equal_particles: Mapping[str, SviFits]
    equal_time: Mapping[str, SviFits]
    posterior: NutsPosterior | None
    agreement: Mapping[str, Agreement]
    """Of the fits at equal particles with NUTS, by loss. Empty without NUTS."""


def prepare(settings: Any) -> SviTask:
    """Loads and tries everything, before anything is written.

    Raises:
        UsageError: the data are invalid, or a loss does not apply.
    """
    column = load_column(settings.data, settings.column)
    every = {name: load_way(name) for name in settings.estimators}
    skipped = {name: why for name in every if (why := missing(name)) is not None}
    ways = {name: way for name, way in every.items() if name not in skipped}
    if not ways:
        raise UsageError(f"--estimators {' '.join(every)}: {next(iter(skipped.values()))}")
    x, said = jnp.asarray(column.x, float), {}
    for name, way in ways.items():
        if name not in LOSSES:  # those of NumPyro apply
            with usage(f"--estimators {name} with --num-particles {settings.num_particles}", Exception):
                svi = way.svi(settings.num_particles)
                jax.eval_shape(svi.update, svi.init(jax.random.key(0), x), x)
        if warning := warning_of(way, x):
            said[name] = warning
    return SviTask(settings, column, ways, skipped, said)


def work(task: SviTask) -> int:
    """Steps of the progress bar: four for each loss, one for NUTS."""
    return 4 * len(task.ways) + task.settings.nuts


def study(task: SviTask, key: Array, advance: Advance) -> SviStudy:
    s, x = task.settings, task.column.x
    for_gradients, for_fits, for_posterior = jax.random.split(key, 3)
    best, gradients = {}, []
    for marginal in sorted({way.marginal for way in task.ways.values()}):
        mine = {name: way for name, way in task.ways.items() if way.marginal == marginal}
        start = _start(next(iter(mine.values())), x)
        there, best[marginal] = optimum(start, x, marginal)
        places = [SviPlace(at, exact_gradient(at, x, marginal)) for at in (start, there)]
        for name, way in mine.items():
            gradients += measured(name, way, x, places, for_gradients, s)
            advance(1)
    programs = {}
    for name, way in task.ways.items():
        programs[name] = SviProgram(way, x, s, for_fits)
        advance(1)
    seconds = seconds_of_a_step(programs, s.steps, advance)
    budget = s.steps * min(seconds.values())
    by_particles, by_time = {}, {}
    for name, program in programs.items():
        by_particles[name] = program.fits(program.length(s.steps), seconds[name])
        by_time[name] = program.fits(program.length(round(budget / seconds[name])), seconds[name])
        advance(1)
    posterior, agreement = None, {}
    if s.nuts:
        posterior = sample_mixture(x, for_posterior, s.chains, s.draws // 2, s.draws)
        agreement = {name: _agreement(f, x, posterior, s.seed) for name, f in by_particles.items()}
        advance(1)
    return SviStudy(task, best, gradients, by_particles, by_time, posterior, agreement)


def _start(way: SviWay, x: np.ndarray) -> dict[str, Any]:
    """The unconstrained parameters at which every fit starts."""
    svi, data = way.svi(1), jnp.asarray(x, float)
    with quiet():
        found: dict[str, Any] = svi.optim.get_params(svi.init(jax.random.key(0), data).optim_state)
    return found


def measured(
    name: str, way: SviWay, x: np.ndarray, places: list[SviPlace], key: Array, settings: Any
) -> list[SviGradient]:
    """The gradient of a loss at the start and at the optimum, in one program.

    Raises:
        UsageError: it is nan or infinite.
    """
    svi, data = way.svi(settings.num_particles), jnp.asarray(x, float)
    with quiet():
        state = svi.init(key, data)
    at = jax.tree.map(lambda *each: jnp.asarray(np.stack(each), float), *(place.params for place in places))
    both = jax.vmap(lambda p: state._replace(optim_state=svi.optim.init(p)))(at)
    of = lambda state: rgrad.measure_svi(svi, state, key, settings.replicates, data)
    moments = jax.tree.map(np.asarray, jax.jit(jax.vmap(of))(both))
    found = []
    for i, place in enumerate(PLACES):
        here = jax.tree.map(lambda leaf, i=i: leaf[i], moments)
        low, high = here.variance_interval()
        for parameter, truth in places[i].gradient.items():
            if lost := int(np.max(here.nonfinite[parameter])):
                raise UsageError(
                    f"--estimators {name}: its gradient in {parameter} was nan or infinite in {lost:,} of "
                    f"{settings.replicates:,} estimates at the {place}; try --float-width 64"
                )
            error = np.hypot(here.standard_error[parameter], ROUNDING * np.maximum(1.0, np.abs(truth)))
            z = np.abs(here.mean[parameter] - truth) / error
            if parameter == "logits":
                z = z[_often_drawn(np.asarray(places[i].params["logits"], float), settings)]
            variance, least, most = (float(np.nansum(part[parameter])) for part in (here.variance, low, high))
            largest = float(np.max(z, initial=0))
            found.append(SviGradient(name, place, parameter, variance, least, most, largest, z.size))
    return found


def _often_drawn(logits: np.ndarray, settings: Any) -> np.ndarray:
    """Which z_i take both values often. The others need more replicates before a mean gradient can be judged."""
    rarer = 1 / (1 + np.exp(np.abs(logits)))
    return np.asarray(rarer * settings.replicates * settings.num_particles >= RARE)


def _agreement(fits: SviFits, x: np.ndarray, posterior: NutsPosterior, seed: int) -> Agreement:
    mean, sd = posterior.theta.mean(0), posterior.theta.std(0, ddof=1)
    rng, each = np.random.default_rng(seed), []
    for i in range(fits.elbo.shape[-1]):
        q = {name: value[-1, fits.chosen, i] for name, value in fits.params.items()}
        loc, scale = (np.asarray(part, np.float64) for part in globals_of(wide(q)))
        z = assignments_of(q, x, rng)
        each.append((np.abs((loc - mean) / sd).max(), scale / sd, np.abs(z - posterior.assignments).max()))
    return Agreement(*(np.array(part) for part in zip(*each, strict=True)))


def assignments_of(q: Mapping[str, Any], x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`P(z_i = 1 | x)` according to a guide: its own, or given its globals if it has no z."""
    if "logits" in q:
        return np.asarray(1 / (1 + np.exp(-np.asarray(q["logits"], np.float64))))
    loc, scale = (np.asarray(part, np.float64) for part in globals_of(wide(q)))
    return assignments(loc + scale * rng.normal(size=(2_000, loc.size)), x)
