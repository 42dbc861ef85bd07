"""The digits, the training of all seeds at once with each estimator, and the measurements."""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from scipy.special import stdtrit

import rgrad
from experiments.common.checkpoint import Saved
from experiments.common.loading import load_estimator
from experiments.common.measuring import usage
from experiments.common.record import Row
from experiments.vae.model import Likelihood, Params, image, initial_params, log_joint, posterior, prior

SIDE, LEVELS = 8, 16
TEST = 297  # of the 1,797 images are held out, the same for every seed
HELD_OUT_SAMPLES = 16  # samples of z for each image in the held-out ELBO, with the same noise at every step


class Digits(NamedTuple):
    """Pixels in the form that the likelihood needs, shape `(images, 64)`. `shown`: the first test image of each digit."""

    train: Array
    test: Array
    shown: Array


class VaeTask(NamedTuple):
    """Everything that the training needs."""

    settings: Any
    digits: Digits
    initial: Callable[[], rgrad.Fit]
    """The initial state, all seeds stacked. The estimators share the initial weights."""
    pieces: dict[str, Any]
    """By estimator: `every` steps of all seeds, with the means of their training ELBOs. Traced, not yet compiled."""
    steps: Array
    """A key for the steps of each seed. All estimators see the same images and the same noise."""
    measuring: Array
    """One key for all measurements."""


class Standing(NamedTuple):
    """The state of the training."""

    step: int
    fits: dict[str, rgrad.Fit]
    """By estimator, with all seeds stacked."""
    rows: list[Row]
    """One row for each estimator, seed and measurement."""


def load(likelihood: Likelihood) -> Digits:
    """The digits that scikit-learn bundles, 1,500 to train on and 297 to test on.

    bernoulli: 1 if a pixel has at least half of its 16 levels. (A Bernoulli is not a likelihood of a level in [0, 1]: its
    values for all levels do not sum to 1.) gaussian: the level, from 0 to 1.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    order = np.random.default_rng(0).permutation(len(bundle.data))
    levels, labels = bundle.data[order] / LEVELS, bundle.target[order]
    pixels = jnp.asarray(levels >= 0.5 if likelihood == "bernoulli" else levels, float)
    train, test = pixels[:-TEST], pixels[-TEST:]
    return Digits(train, test, test[np.unique(labels[-TEST:], return_index=True)[1]])


def prepare(settings: Any, key: Array) -> VaeTask:
    """Prepares and checks everything before the training.

    Raises:
        UsageError: an estimator is unknown or does not apply.
    """
    estimators = {name: load_estimator(name) for name in settings.estimators}
    digits = load(settings.likelihood)
    optimizer = optax.adam(settings.learning_rate)
    for_weights, for_steps, measuring = jax.random.split(key, 3)
    weights, steps = (jax.random.split(k, settings.seeds) for k in (for_weights, for_steps))

    def initial(key: Array) -> rgrad.Fit:
        params = initial_params(key, SIDE**2, settings.hidden, settings.latents)
        return rgrad.initial_fit(params, optimizer)

    def piece(estimator: rgrad.Estimator, start: rgrad.Fit, key: Array) -> tuple[rgrad.Fit, Array]:
        of = partial(loss, digits.train, settings, estimator)
        end = rgrad.fit(of, start, optimizer, key, settings.every, record=lambda params: params["log_noise"])
        return end._replace(trace=start.trace), -end.trace.loss.mean()

    begin = jax.jit(jax.vmap(initial))
    pieces = {}
    for name, estimator in estimators.items():
        with usage(f"--estimators {name} with --num-samples {settings.num_samples}", Exception):
            pieces[name] = jax.jit(jax.vmap(partial(piece, estimator))).lower(jax.eval_shape(begin, weights), steps)
    return VaeTask(settings, digits, lambda: begin(weights), pieces, steps, measuring)


def loss(train: Array, settings: Any, estimator: rgrad.Estimator, params: Params, key: Array) -> Array:
    """The negative mean ELBO of `batch` images, each with `num_samples` independent z."""
    for_images, for_z = jax.random.split(key)
    x = train[jax.random.randint(for_images, (settings.batch,), 0, len(train))]

    def elbo(x: Array, key: Array) -> Array:
        log_g = log_joint(params, x, settings.likelihood)
        return rgrad.elbo(log_g, posterior(params, x), key, settings.num_samples, estimator, settings.entropy)

    return -jax.vmap(elbo)(x, jax.random.split(for_z, settings.batch)).mean()


def beginning(task: VaeTask) -> Standing:
    """The state before the first step, with the results of the initial weights."""
    at = Standing(0, dict.fromkeys(task.pieces, task.initial()), [])
    none = dict.fromkeys(at.fits, np.full(task.settings.seeds, np.nan))
    return at._replace(rows=_rows(task, at, dict.fromkeys(at.fits, 0.0), none))


def training(task: VaeTask, at: Standing) -> Iterator[Standing]:
    """Trains to the last step, with `every` steps of each estimator in turn.

    The seconds include the steps of all seeds, but neither compilation nor measurement.
    """
    if at.step == task.settings.steps:
        return
    programs = {name: piece.compile() for name, piece in task.pieces.items()}
    seconds: dict[str, float] = {row["estimator"]: row["seconds"] for row in at.rows}
    while at.step < task.settings.steps:
        fits, elbo = {}, {}
        for name, program in programs.items():
            began = time.perf_counter()
            fits[name], elbo[name] = jax.block_until_ready(program(at.fits[name], task.steps))
            seconds[name] += time.perf_counter() - began
        at = Standing(at.step + task.settings.every, fits, at.rows)
        at = at._replace(rows=[*at.rows, *_rows(task, at, seconds, elbo)])
        yield at


def _rows(task: VaeTask, at: Standing, seconds: Mapping[str, float], train_elbo: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, fits in at.fits.items():
        elbo, error = _held_out(fits.params, task.digits.test, task.measuring, task.settings.likelihood)
        rows += [
            {
                "estimator": name, "seed": i, "step": at.step, "seconds": seconds[name],
                "train_elbo": float(train_elbo[name][i]), "test_elbo": float(elbo[i]),
                "squared_error": float(error[i]), "stopped_at": int(fits.stopped_at[i]),
            }
            for i in range(task.settings.seeds)
        ]  # fmt: skip
    return rows


@partial(jax.jit, static_argnames="likelihood")
def _held_out(params: Params, images: Array, key: Array, likelihood: Likelihood) -> tuple[Array, Array]:
    """For all seeds: the ELBO, and the squared error per pixel of the reconstruction."""

    def of_image(params: Params, x: Array, key: Array) -> tuple[Array, Array]:
        log_g = log_joint(params, x, likelihood)
        elbo = rgrad.elbo(log_g, posterior(params, x), key, HELD_OUT_SAMPLES)
        return elbo, jnp.mean((reconstruction(params, x, likelihood) - x) ** 2)

    keys = jax.random.split(key, len(images))
    every = jax.vmap(jax.vmap(of_image, (None, 0, 0)), (0, None, None))(params, images, keys)
    return every[0].mean(1), every[1].mean(1)


@partial(jax.jit, static_argnames=("likelihood", "k"))
def _bounds(params: Params, images: Array, key: Array, likelihood: Likelihood, k: int) -> Array:
    """For all seeds: the importance-weighted bound with K samples."""

    def of_image(params: Params, x: Array, key: Array) -> Array:
        return rgrad.iwae(log_joint(params, x, likelihood), posterior(params, x), key, k)

    # One image at a time, so that K may be large.
    pairs = (images, jax.random.split(key, len(images)))
    return jax.vmap(lambda params: jax.lax.map(lambda pair: of_image(params, *pair), pairs).mean())(params)


def reconstruction(params: Params, x: Array, likelihood: Likelihood) -> Array:
    """The mean image at z = mu(x)."""
    return image(params, posterior(params, x).mean, likelihood).mean


def results(task: VaeTask, at: Standing) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """All rows, the last ones with the importance-weighted bound, and the images of the first seed.

    The images are `originals`, `reconstructions/ESTIMATOR` and `samples/ESTIMATOR` (the mean images at the same z from
    the prior), each of shape `(images, 8, 8)`.
    """
    s = task.settings
    for_bounds, for_samples = jax.random.split(task.measuring)
    bounds, pictures = {}, {"originals": _square(task.digits.shown)}
    for name, fits in at.fits.items():
        bounds[name] = _bounds(fits.params, task.digits.test, for_bounds, s.likelihood, s.bound_k)
        seen, drawn = _decoded(fits.params, task.digits.shown, for_samples, s.likelihood, s.latents)
        pictures[f"reconstructions/{name}"], pictures[f"samples/{name}"] = _square(seen), _square(drawn)
    of_row = lambda r: float(bounds[r["estimator"]][r["seed"]]) if r["step"] == at.step else None
    return [{**row, "iwae": of_row(row)} for row in at.rows], pictures


@partial(jax.jit, static_argnames=("likelihood", "latents"))
def _decoded(params: Params, images: Array, key: Array, likelihood: Likelihood, latents: int) -> tuple[Array, Array]:
    """From the networks of the first seed: reconstructions, and twice as many mean images at z from the prior."""
    first = jax.tree.map(lambda x: x[0], params)
    z = prior(latents).sample(key, (2 * len(images),))
    seen = jax.vmap(lambda x: reconstruction(first, x, likelihood))(images)
    return seen, jax.vmap(lambda z: image(first, z, likelihood).mean)(z)


def _square(pixels: Array) -> np.ndarray:
    return np.asarray(pixels).reshape(-1, SIDE, SIDE)


def independent_pixels(digits: Digits, likelihood: Likelihood) -> float:
    """The held-out log likelihood with independent pixels. This is the best that a decoder without z can reach."""
    train, test = (np.asarray(x, np.float64) for x in (digits.train, digits.test))
    if likelihood == "bernoulli":
        p = (train.sum(0) + 0.5) / (len(train) + 1)
        each = np.where(test == 1, np.log(p), np.log1p(-p))
    else:
        variance = train.var(0).mean()
        each = -((test - train.mean(0)) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    return float(each.sum(1).mean())


def to_save(at: Standing) -> Saved:
    return Saved(at.step, [np.asarray(x) for x in jax.tree.leaves(at.fits)], at.rows)


def restored(task: VaeTask, saved: Saved) -> Standing:
    structure = jax.tree.structure(jax.eval_shape(lambda: dict.fromkeys(task.pieces, task.initial())))
    return Standing(saved.step, jax.tree.unflatten(structure, map(jnp.asarray, saved.arrays)), saved.rows)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean over the seeds, and the half-width of its 95 % interval (Student's t)."""
    x = np.asarray(values, float)
    return float(x.mean()), float(stdtrit(len(x) - 1, 0.975) * x.std(ddof=1) / len(x) ** 0.5)


def margins(rows: Sequence[Row], estimators: Sequence[str]) -> list[dict[str, Any]]:
    """The margin by which the held-out ELBO of the first estimator exceeds that of each other estimator, seed by seed.

    At equal steps: at the last step. At equal time: when the faster estimator finishes, with linear interpolation
    between measurements. The verdict says whether the margin is larger than the whole width of its 95 % interval.
    """
    ends = {name: max(r["seconds"] for r in rows if r["estimator"] == name) for name in estimators}
    step = max(r["step"] for r in rows)
    compared = []
    for other in estimators[1:]:
        soonest = min(ends[estimators[0]], ends[other])
        for unit, place in (("step", step), ("seconds", soonest)):
            first, second = (_at(rows, name, unit, place) for name in (estimators[0], other))
            margin, half = mean_and_half(first - second)
            compared.append({
                "first": estimators[0], "other": other, "at": unit, "place": place, "margin": margin,
                "low": margin - half, "high": margin + half, "verdict": _verdict(margin, half),
            })  # fmt: skip
    return compared


def _at(rows: Sequence[Row], name: str, unit: str, place: float) -> np.ndarray:
    """The held-out ELBO of each seed at a step, or after a number of seconds. nan from where a fit has stopped."""
    elbo = lambda row: row["test_elbo"] if row["stopped_at"] < 0 else np.nan
    seeds = range(1 + max(r["seed"] for r in rows))
    mine = [[r for r in rows if (r["estimator"], r["seed"]) == (name, seed)] for seed in seeds]
    return np.array([np.interp(place, [r[unit] for r in each], list(map(elbo, each))) for each in mine])


def _verdict(margin: float, half: float) -> str:
    if not np.isfinite(margin):
        return "unknown: not finite"
    if abs(margin) <= half:
        return "not significant"
    by = "more" if abs(margin) > 2 * half else "less"
    return f"{'better' if margin > 0 else 'worse'}, by {by} than the width of the interval"


def margins_file(compared: Sequence[Row]) -> bytes:
    """`margins.csv`. Only a header if there is one estimator."""
    columns = ["first", "other", "at", "place", "margin", "low", "high", "verdict"]
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(compared)
    return table.getvalue().encode()
