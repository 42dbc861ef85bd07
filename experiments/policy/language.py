"""The first part: estimators on the tiny language model, exact, measured, and in training."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import rgrad
from experiments.common.progress import Advance
from experiments.policy.exact import PolicyPlace, all_groups, exact_moments, true_gradient
from experiments.policy.factors import weights_by_length
from experiments.policy.rows import EXACT, SURE, Row, compared, directions, largest_z, make_row, mean_and_error
from experiments.policy.sequences import Sequences, all_sequences, initial_logits, objective, token_log_probs
from experiments.policy.settings import PolicySettings
from experiments.policy.ways import PENALTIES, WAYS, Choice, Menu, batch_objective, choice_of, menu_of

SPREAD = 0.5  # of the initial logits
TRAINED = "k1_reward"  # the penalty with which all ways are trained
ALL_PENALTIES = "rloo"  # the way that is measured with all of them, and trained, as `grpo` is
TO_OLD, TO_NOW = 1.0, 0.3  # from the reference to the policy that wrote the answers of off-policy ways, and on
POINTS = 40  # of a training curve


class LanguageFound(NamedTuple):
    rows: list[Row]
    curves: dict[str, np.ndarray]
    """By `way` or `way, penalty`: the objective during training, shape `(runs, points)`. `exact` has one run."""
    lengths: dict[str, dict[int, float]]
    """By normalisation: the mean weight of an answer by its length, for the first prompt."""


def study_language(settings: PolicySettings, key: Array, advance: Advance) -> LanguageFound:
    seqs = all_sequences(settings.vocabulary, settings.length)
    for_place, for_measure, for_training = jax.random.split(key, 3)
    place = place_of(settings, seqs, for_place)
    ways = {name: WAYS[name] for name in settings.estimators}
    penalties = {name: PENALTIES[name] for name in settings.penalties}
    groups = all_groups(len(seqs.texts), settings.group)
    exact = exact_moments(place, seqs, groups, ways, penalties, settings.beta, advance)
    calls = [call for call in exact if call[1] == settings.penalties[0] or call[0] == ways_first(settings)]
    measured = measure(settings, seqs, place, calls, for_measure)
    trained = train_all(settings, seqs, place, for_training, advance)
    rows, along = [], directions(true_gradient(place, seqs, 0.0))
    for (name, other), moments in exact.items():
        beta = settings.beta if penalties[other] is not None else 0.0
        truth = true_gradient(place, seqs, beta)
        penalty, way = penalties[other], ways[name]
        unbiased = way.unbiased and (penalty is None or penalty.right)
        size = truth @ truth
        z = None
        if (name, other) in measured:
            mean, error = measured[name, other]
            z = largest_z(mean, error, moments.mean @ along)
        found = compared(moments.mean, truth)
        holds = None if not unbiased else found["bias"] <= EXACT and (z is None or z <= SURE)
        rows.append(make_row(
            part="sequences", estimator=name, penalty=other, unbiased=unbiased, **found, variance=moments.variance / size,
            signal_to_noise=float(moments.mean @ moments.mean / moments.variance), measured_z=z, holds=holds,
            **_end(trained.get((name, other))),
        ))  # fmt: skip
    if (best := trained.get(("exact", TRAINED))) is not None:
        rows.append(make_row(part="sequences", estimator="exact", penalty=TRAINED, unbiased=True, bias=0.0, angle=0.0, factor=1.0,
                             variance=0.0, **_end(best)))  # fmt: skip
    curves = {name if other == TRAINED else f"{name}, {other}": each[..., 0] for (name, other), each in trained.items()}
    with jax.enable_x64(True):
        log_p = np.asarray(token_log_probs(jnp.asarray(place.logits, jnp.float64), seqs).sum(-1))[0]
        kinds = {"nothing": None, "its own length (sequence mean)": "sequence", "all lengths (token mean)": "token"}
        lengths = {name: weights_by_length(log_p, seqs, settings.group, kind) for name, kind in kinds.items()}
    return LanguageFound(rows, curves, lengths)


def ways_first(settings: PolicySettings) -> str:
    """The way that is measured and trained with every penalty."""
    return ALL_PENALTIES if ALL_PENALTIES in settings.estimators else settings.estimators[0]


def work_language(settings: PolicySettings) -> int:
    """Steps of the progress bar."""
    return len(settings.estimators) + 1


def place_of(settings: PolicySettings, seqs: Sequences, key: Array) -> PolicyPlace:
    """A policy that has left its reference along the gradient, and an older one between them."""
    reference = np.asarray(initial_logits(key, settings.vocabulary, SPREAD), np.float64)

    def moved(at: np.ndarray, size: float) -> np.ndarray:
        slope = true_gradient(PolicyPlace(at, at, reference), seqs, settings.beta).reshape(at.shape)
        return at + size * slope / np.linalg.norm(slope)

    old = moved(reference, TO_OLD)
    return PolicyPlace(moved(old, TO_NOW), old, reference)


def measure(
    settings: PolicySettings, seqs: Sequences, place: PolicyPlace, calls: list[tuple[str, str]], key: Array
) -> dict[tuple[str, str], tuple[Any, Any]]:
    """The mean and its standard error of the gradients of `batch_objective`, of drawn answers, along some directions."""
    at, old, reference = (jnp.asarray(x, float) for x in place)
    choices, menu = choices_of(calls)
    along = jnp.asarray(directions(true_gradient(place, seqs, 0.0)), float)

    def draw(key: Array) -> Array:
        def one(choice: Choice) -> Array:
            wrote = jnp.where(choice.old, old, at)
            answers = drawn(wrote, seqs, settings.group, key)
            of = lambda x: batch_objective(x, wrote, reference, answers, seqs, settings.beta, choice, menu)
            return jax.grad(of)(at).ravel() @ along

        return jax.vmap(one)(choices)

    moments = rgrad.measure(draw, key, settings.replicates)
    return {call: (moments.mean[i], moments.standard_error[i]) for i, call in enumerate(calls)}


def choices_of(calls: list[tuple[str, str]]) -> tuple[Choice, Menu]:
    """With a leading axis for the calls."""
    pairs = [(WAYS[name], PENALTIES[other]) for name, other in calls]
    menu = menu_of(pairs)
    return jax.tree.map(lambda *x: jnp.asarray(x), *(choice_of(*pair, menu) for pair in pairs)), menu


def drawn(logits: Array, seqs: Sequences, k: int, key: Array) -> Array:
    """Answers to each prompt, shape `(prompts, k)`, by inversion: `jax.random.categorical` takes seconds to compile."""
    below = jnp.cumsum(jnp.exp(token_log_probs(logits, seqs).sum(-1)), axis=1)
    u = rgrad.noise.uniform(key, (len(below), k)) * below[:, -1:]
    return (below[:, None, :] < u[..., None]).sum(-1)


def calls_to_train(settings: PolicySettings) -> list[tuple[str, str]]:
    if TRAINED not in settings.penalties:
        return []
    names = [name for name in (ways_first(settings), "grpo") if name in settings.estimators]
    others = [(name, other) for name in dict.fromkeys(names) for other in settings.penalties if other != TRAINED]
    return [*((name, TRAINED) for name in settings.estimators), *others]


def train_all(
    settings: PolicySettings, seqs: Sequences, place: PolicyPlace, key: Array, advance: Advance
) -> dict[tuple[str, str], np.ndarray]:
    """By way and penalty: the exact objective, reward and divergence during training, shape `(runs, points, 3)`.

    All ways are trained in one program, and with the same random numbers.
    """
    calls = calls_to_train(settings)
    if not calls:
        return {}
    reference = jnp.asarray(place.reference, float)
    keys = jax.random.split(key, settings.runs)
    choices, menu = choices_of(calls)
    one = partial(trained, settings, seqs, reference, menu)
    curves = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(choices, keys)
    exact = jax.jit(partial(one, None))(keys[0])
    advance(1)
    found = {call: np.asarray(curves[i], np.float64) for i, call in enumerate(calls)}
    return {("exact", TRAINED): np.asarray(exact, np.float64)[None], **found}


def trained(
    settings: PolicySettings, seqs: Sequences, reference: Array, menu: Menu, choice: Choice | None, key: Array
) -> Array:
    """Adam from the reference. None follows the exact gradient, with as many steps as the ways that reuse a batch."""
    optimizer = optax.adam(settings.learning_rate)
    true = lambda x: jnp.stack(objective(x, reference, seqs, settings.beta))
    points = min(POINTS, settings.training_steps)
    epochs = max(WAYS[name].epochs for name in settings.estimators)

    def batch(carry: Any, key: Array) -> tuple[Any, None]:
        old = carry[0]
        answers = None if choice is None else drawn(old, seqs, settings.group, key)

        def step(carry: Any, epoch: Array) -> tuple[Any, None]:
            at, state = carry
            if choice is None or answers is None:
                slope, goes = jax.grad(lambda x: true(x)[0])(at), epoch >= 0
            else:
                of = lambda x: batch_objective(x, old, reference, answers, seqs, settings.beta, choice, menu)
                slope, goes = jax.grad(of)(at), epoch < choice.epochs
            updates, after = optimizer.update(-slope, state, at)
            moved = optax.apply_updates(at, updates), after
            return jax.tree.map(lambda new, same: jnp.where(goes, new, same), moved, carry), None

        return jax.lax.scan(step, carry, jnp.arange(epochs))

    def stretch(carry: Any, keys: Array) -> tuple[Any, Array]:
        carry, _ = jax.lax.scan(batch, carry, keys)
        return carry, true(carry[0])

    keys = jax.random.split(key, (points, settings.training_steps // points))
    _, found = jax.lax.scan(stretch, (reference, optimizer.init(reference)), keys)
    return jnp.concatenate([true(reference)[None], found])


def _end(curve: np.ndarray | None) -> Mapping[str, Any]:
    """Where training ended: the reward, the objective and the divergence."""
    if curve is None:
        return {}
    last = curve[:, -1]
    if len(last) == 1:
        value, reward, divergence = map(float, last[0])
        return {"end": reward, "end_objective": value, "end_divergence": divergence}
    (reward, error), (value, wide), (divergence, _) = (mean_and_error(last[:, i]) for i in (1, 0, 2))
    return {"end": reward, "end_error": error, "end_objective": value, "end_objective_error": wide, "end_divergence": divergence}  # fmt: skip
