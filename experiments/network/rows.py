"""The rows of `experiments.network`: each measured number by layer, and its parts by the law of total variance."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

import rgrad
from experiments.network.model import LAYERS, parameters_of, units_at
from experiments.network.study import WHOLE, NetworkNoise, NetworkTask, is_biased

Row = dict[str, Any]
FALSE_ALARM = 1e-7  # of all biases of a run together; the tests assume only that it is below 1e-6
ROUNDING = 1e-4  # of a gradient in 32 bits, relative to its norm


def make_rows(task: NetworkTask, found: list[NetworkNoise]) -> list[Row]:
    """A row for each network, estimator, batch size and layer.

    The images of a batch are drawn without replacement, so the variance of a gradient of B of N images is

        V(B) = S (1/B - 1/N) + E / B

    S is the variance between the exact gradients of the images, and E the mean over the images of the variance of the
    estimator. The full batch gives E, because only the noise of the estimator is left in it.
    """
    of = lambda m: (m.place.family, m.place.step, m.estimator)
    full = {of(m): m for m in found if m.batch == task.batches[-1]}
    return [_row(task, m, full[of(m)], layer) for m in found for layer in (*LAYERS, WHOLE)]


def _row(task: NetworkTask, m: NetworkNoise, full: NetworkNoise, layer: str) -> Row:
    place, noise, images, last = m.place, m.gradient[layer], task.settings.images, m is full
    t = _t(task, 0.975)
    ratio = full.batch / m.batch
    own, own_error = ratio * full.gradient[layer].variance.value, ratio * full.variance_error[layer]
    rest, rest_error = noise.variance.value - own, float(np.hypot(own_error, m.variance_error[layer]))
    known = place.spread[layer] * (1 / m.batch - 1 / images)
    row: Row = {
        "family": place.family, "step": place.step, "estimator": m.estimator, "biased": is_biased(m.estimator),
        "evaluations": _evaluations(task, m), "batch": m.batch, "layer": layer, "size": noise.size,
        "loss": place.loss, "accuracy": place.accuracy, "image_variance": place.spread[layer],
    }  # fmt: skip
    for name in ("variance", "squared_mean", "signal_to_noise", "noise_scale"):
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, getattr(noise, name)), strict=True))
    row |= {"estimator_variance": own, "estimator_variance_low": own - t * own_error,
            "estimator_variance_high": own + t * own_error}  # fmt: skip
    if last:
        rest = rest_error = 0.0
    row |= {"minibatch_variance": rest, "minibatch_variance_low": rest - t * rest_error,
            "minibatch_variance_high": rest + t * rest_error, "minibatch_variance_exact": known,
            "minibatch_z": None if last or is_biased(m.estimator) else (rest - known) / rest_error}  # fmt: skip
    return row | _bias(task, m, layer)


def _t(task: NetworkTask, probability: float) -> float:
    """A quantile of Student's t over the pairs of gradients."""
    return float(stdtrit(task.settings.replicates // 2 - 1, probability))


def _bias(task: NetworkTask, m: NetworkNoise, layer: str) -> Row:
    """The bias relative to the exact gradient, and whether chance explains it. Judged in the full batch only."""
    exact, squared, error = (
        float(np.sum(m.place.gradient[layer] ** 2)),
        m.error[layer].squared_mean,
        m.squared_bias_error[layer],
    )
    half, relative = _t(task, 0.975) * error, lambda x: float(np.sqrt(max(x, 0.0) / exact))
    found: Row = {
        "relative_bias": relative(squared.value), "relative_bias_low": relative(squared.value - half),
        "relative_bias_high": relative(max(squared.value, 0.0) + half),
    }  # fmt: skip
    if m.batch < task.batches[-1]:
        return found | {"bias_z": None, "holds": None}
    beyond = float(squared.value) - ROUNDING**2 * exact
    z = beyond / error if error > 0 else float(np.inf * np.sign(beyond))
    return found | {"bias_z": z, "holds": None if is_biased(m.estimator) else z <= limit(task)}


def limit(task: NetworkTask) -> float:
    """The largest `bias_z` that chance explains, by Student's t over the pairs, for all layers and networks of a run."""
    s = task.settings
    judged = (
        sum(not is_biased(name) for of in task.estimators.values() for name in of) * len(s.steps) * (1 + len(LAYERS))
    )
    return _t(task, 1 - FALSE_ALARM / judged)


def _evaluations(task: NetworkTask, m: NetworkNoise) -> int | None:
    """Evaluations of the layers after the units, for one image."""
    if m.estimator not in rgrad.ESTIMATORS:
        return None
    s, family = task.settings, m.place.family
    q = units_at(jnp.zeros(parameters_of(family, s.units)), family)
    return rgrad.ESTIMATORS[m.estimator].evaluations(q, s.num_samples)
