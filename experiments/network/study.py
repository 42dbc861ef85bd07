"""The measurements of `experiments.network`: the noise of each layer's gradient, by estimator and batch size."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rgrad
from experiments.common.errors import UsageError
from experiments.common.loading import load_estimator
from experiments.common.measuring import usage
from experiments.common.progress import Advance
from experiments.network.data import LabelledDigits, load
from experiments.network.model import (
    LAYERS,
    Network,
    batch_loss,
    image_loss,
    initial_network,
    library_of,
    scores,
    units_of,
)
from experiments.network.settings import Family

WHOLE = "whole"  # the name of the gradient of all layers
# The estimator and the number of samples for exact gradients. Those of Gaussian units have a small error.
REFERENCES: Mapping[Family, tuple[str, int]] = {"bernoulli": ("enumerated", 1), "gaussian": ("reparameterized+quasi", 1_024)}  # fmt: skip
CHUNK = 64  # images whose exact gradients are computed at once
AT_ONCE = 2  # programs that are compiled at once, because each is compiled on one core
GUESSES = 100  # samples of the units for the predicted class


class NetworkTask(NamedTuple):
    settings: Any
    library: str
    digits: LabelledDigits
    estimators: Mapping[Family, Mapping[str, rgrad.Estimator]]
    """By family, those that support it."""

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes in ascending order. The last one is the full batch."""
        return tuple(sorted({*self.settings.batch_sizes, self.settings.images}))


class NetworkPlace(NamedTuple):
    """A network during its training, and exact numbers over the data set."""

    family: Family
    step: int
    network: Network
    gradient: Mapping[str, np.ndarray]
    """The gradient of the full batch, by layer."""
    spread: Mapping[str, float]
    """`sum_i |g_i - g|^2 / (N - 1)` of the gradients of the N images, by layer: the noise of the data, per image."""
    loss: float
    accuracy: float
    """The share of the test images whose class is predicted. nan without test images."""


class NetworkNoise(NamedTuple):
    """What was measured with one estimator and one batch size, by layer."""

    place: NetworkPlace
    estimator: str
    batch: int
    gradient: Mapping[str, Any]
    """`rgrad.TotalNoise.leaves` of the gradient."""
    variance_error: Mapping[str, float]
    """The standard error of its variance."""
    error: Mapping[str, Any]
    """`rgrad.TotalNoise.leaves` of its difference from the exact gradient, whose squared mean is the squared bias."""
    squared_bias_error: Mapping[str, float]


def is_biased(name: str) -> bool:
    return name in rgrad.ESTIMATORS and rgrad.ESTIMATORS[name].biased


def prepare(settings: Any) -> NetworkTask:
    """Loads and tries everything, before anything is written.

    Raises:
        UsageError: a library is missing, or an estimator is unknown or supports no units.
    """
    found: dict[Family, dict[str, rgrad.Estimator]] = {family: {} for family in get_args(Family)}
    task = NetworkTask(settings, library_of(settings.library), load(settings.images), found)
    for name in settings.estimators:
        estimator, refusals = load_estimator(name), list[str]()
        for family, mine in found.items():
            with usage(f"--estimators {name}", Exception):
                try:
                    jax.eval_shape(
                        jax.grad(loss_of(task, family, estimator, 2)), initial(task, family), jax.random.key(0)
                    )
                    mine[name] = estimator
                except rgrad.NotApplicable as error:
                    refusals.append(" ".join(str(error).split()))
        if len(refusals) == len(found):
            raise UsageError(f"--estimators {name} with --num-samples {settings.num_samples}: {refusals[0]}")
    kept = {family: found[family] for family in settings.families}
    for family, mine in kept.items():
        if all(map(is_biased, mine)):
            raise UsageError(
                f"--estimators {' '.join(settings.estimators)}: none is an unbiased estimator for {family} units; add one, "
                "which also trains the network, or give other --families"
            )
    return task._replace(estimators=kept)


def initial(task: NetworkTask, family: Family) -> Network:
    s, pixels = task.settings, task.digits.x.shape[1]
    return initial_network(jax.random.key(s.seed), family, pixels, s.hidden, s.units, task.library)


def loss_of(task: NetworkTask, family: Family, estimator: rgrad.Estimator, batch: int) -> Any:
    """`(network, key) -> ` an estimate of the loss, from `batch` images without replacement."""
    (x, labels, *_), n = task.digits, task.settings.num_samples

    def loss(network: Network, key: Array) -> Array:
        for_images, for_units = jax.random.split(key)
        if batch == len(x):
            return batch_loss(network, x, labels, for_units, n, estimator, family)
        # As `jax.random.choice` does without replacement, but faster to compile.
        _, some = jax.lax.top_k(jax.random.bits(for_images, (len(x),)), batch)
        return batch_loss(network, x[some], labels[some], for_units, n, estimator, family)

    return loss


def work(task: NetworkTask) -> int:
    """Steps of the progress bar: one for each program."""
    return len(task.estimators) * len(task.batches)


def study(task: NetworkTask, key: Array, advance: Advance) -> list[NetworkNoise]:
    for_training, for_places, for_noise = jax.random.split(key, 3)
    trained = [places(task, family, for_training, for_places) for family in task.estimators]
    calls = [(mine, batch) for mine in trained for batch in task.batches]
    found = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        one = lambda call: measured(task, call[0], call[1], jax.random.fold_in(for_noise, call[1]))
        for several in threads.map(one, calls):
            found += several
            advance(1)
    order = list(task.estimators)
    return sorted(found, key=lambda m: (order.index(m.place.family), m.place.step))


def places(task: NetworkTask, family: Family, for_training: Array, for_places: Array) -> list[NetworkPlace]:
    """The network after each number of steps, trained with the first unbiased estimator of its family.

    Raises:
        UsageError: the training diverged.
    """
    s = task.settings
    estimator = next(e for name, e in task.estimators[family].items() if not is_biased(name))
    loss, optimizer = loss_of(task, family, estimator, s.training_batch), optax.adam(s.learning_rate)
    fit, done, found = rgrad.initial_fit(initial(task, family), optimizer), 0, []
    for step in sorted(s.steps):
        if step > done:
            fit, done = rgrad.fit(loss, fit, optimizer, for_training, step - done, record=None), step
        if fit.diverged:
            raise UsageError(f"--learning-rate {s.learning_rate:g}: the training of {family} units {fit.remark}")
        found.append(place_of(task, family, step, fit.params, for_places))
    return found


def place_of(task: NetworkTask, family: Family, step: int, network: Network, key: Array) -> NetworkPlace:
    """The exact gradient of every image, and the accuracy."""
    name, n = REFERENCES[family]
    estimator, digits = rgrad.ESTIMATORS[name].estimator, task.digits
    for_gradient, for_guesses = jax.random.split(key)

    def one(image: tuple[Array, Array, Array]) -> tuple[Array, dict[str, Array]]:
        of = partial(image_loss, n=n, estimator=estimator, family=family)
        value, gradient = jax.value_and_grad(of)(network, *image)
        return value, by_layer(gradient)

    each = jax.jit(lambda images: jax.lax.map(one, images, batch_size=CHUNK))
    images = (digits.x, digits.labels, jax.random.split(for_gradient, len(digits.x)))
    losses, gradients = jax.tree.map(lambda x: np.asarray(x, np.float64), each(images))
    mean = {layer: g.mean(0) for layer, g in gradients.items()}
    spread = {layer: float(((g - mean[layer]) ** 2).sum() / (len(g) - 1)) for layer, g in gradients.items()}

    def guess(x: Array) -> Array:
        z = units_of(network, x, family).sample(for_guesses, (GUESSES,))
        return jnp.argmax(jax.vmap(lambda z: jax.nn.softmax(scores(network, z)))(z).mean(0))

    right = np.asarray(jax.jit(jax.vmap(guess))(digits.test_x) == digits.test_labels)
    return NetworkPlace(family, step, network, mean, spread, losses.mean(), right.mean() if right.size else np.nan)


def by_layer(gradient: Network) -> dict[str, Array]:
    """The gradient of each layer as one vector, and of all layers."""
    layers = {name: jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(gradient[name])]) for name in LAYERS}
    return {**layers, WHOLE: jnp.concatenate(list(layers.values()))}


def measured(task: NetworkTask, places: Sequence[NetworkPlace], batch: int, key: Array) -> list[NetworkNoise]:
    """The noise of the gradient of a batch at each place of one family, with each estimator.

    All are measured in one program, on the same minibatches: it takes half the time to compile.

    Raises:
        UsageError: a gradient is nan or infinite.
    """
    family = places[0].family
    losses = {name: loss_of(task, family, of, batch) for name, of in task.estimators[family].items()}
    networks = jax.tree.map(lambda *each: jnp.stack(each), *(place.network for place in places))
    exact = jax.tree.map(lambda *each: jnp.asarray(np.stack(each), float), *(dict(place.gradient) for place in places))

    def draw(key: Array) -> dict[str, Any]:
        def gradients(network: Network, exact: Mapping[str, Array]) -> dict[str, Any]:
            each = {name: by_layer(jax.grad(loss)(network, key)) for name, loss in losses.items()}
            off = {name: {layer: g - exact[layer] for layer, g in of.items()} for name, of in each.items()}
            return {name: {"gradient": each[name], "error": off[name]} for name in each}

        every = jax.vmap(gradients)(networks, exact)
        return {str(place.step): jax.tree.map(lambda x, i=i: x[i], every) for i, place in enumerate(places)}

    noise = rgrad.measure_total(draw, key, task.settings.replicates)
    found, leaves, errors = [], noise.leaves, noise.pairs.standard_error
    for place in places:
        for name in losses:
            paths = {w: {of: f"{place.step}.{name}.{w}.{of}" for of in (*LAYERS, WHOLE)} for w in ("gradient", "error")}
            if lost := max(int(np.max(noise.pairs.nonfinite[path])) for path in paths["gradient"].values()):
                raise UsageError(
                    f"--estimators {name}: its gradient was nan or infinite in {lost:,} of {noise.replicates // 2:,} pairs, "
                    f"with {family} units after {place.step:,} steps; use a smaller --learning-rate, or --float-width 64"
                )
            found.append(NetworkNoise(
                place, name, batch,
                {of: leaves[path] for of, path in paths["gradient"].items()},
                {of: float(errors[path][1]) for of, path in paths["gradient"].items()},
                {of: leaves[path] for of, path in paths["error"].items()},
                {of: float(errors[path][0]) for of, path in paths["error"].items()},
            ))  # fmt: skip
    return found
