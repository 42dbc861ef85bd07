"""The estimators of the first part, as losses of a batch of answers that is written with public `rgrad`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import rgrad
from experiments.policy.sequences import Sequences, token_log_probs

CLIP = 0.2  # of the ratio in PPO
EPOCHS = 4  # gradient steps on a batch of the ways that reuse it
Baseline = Literal["leave_one_out", "mean", "batch"]


class SequenceWay(NamedTuple):
    """How an estimator makes a gradient of the answers to several prompts."""

    baseline: Baseline | None = "leave_one_out"
    """Within the group of a prompt; `batch` is the mean of the rewards of all prompts."""
    scale: Literal["std"] | None = None
    length: Literal["sequence", "token"] | None = None
    """What divides the sum over the tokens: the length of each answer, or (times the group size) that of all answers."""
    old: bool = False
    """Whether the answers come from an older policy."""
    ratio: Literal["sequence", "clipped"] | None = None
    """Importance weights of whole answers, or PPO's clipped ratio of each token."""
    epochs: int = 1
    """Gradient steps on each batch in training."""
    unbiased: bool = False
    """Whether its mean is the gradient, by theory."""


WAYS: Mapping[str, SequenceWay] = {
    "reinforce": SequenceWay(None, unbiased=True),
    "batch_mean": SequenceWay("batch"),
    "rloo": SequenceWay(unbiased=True),
    "dr_grpo": SequenceWay("mean"),
    "grpo": SequenceWay("mean", "std"),
    "rloo+sequence_mean": SequenceWay(length="sequence"),
    "rloo+token_mean": SequenceWay(length="token"),
    "grpo+sequence_mean": SequenceWay("mean", "std", "sequence"),
    "grpo+token_mean": SequenceWay("mean", "std", "token"),
    "ppo_first_step": SequenceWay(ratio="clipped", unbiased=True),
    "ppo": SequenceWay(old=True, ratio="clipped", epochs=EPOCHS),
    "off_policy": SequenceWay(old=True, epochs=EPOCHS),
    "off_policy+weights": SequenceWay(old=True, ratio="sequence", epochs=EPOCHS, unbiased=True),
}


class Penalty(NamedTuple):
    """An estimate of the KL divergence, and what is done with it."""

    kind: Literal["k1", "k2", "k3"]
    place: Literal["reward", "loss"]
    tokens: bool = False
    """Whether it is summed over the tokens, not computed from the probabilities of whole sequences."""
    right: bool = False
    """Whether its gradient is that of the divergence, by theory."""


PENALTIES: Mapping[str, Penalty | None] = {
    "none": None,
    "k1_reward": Penalty("k1", "reward", right=True),
    "k2_reward": Penalty("k2", "reward"),
    "k3_reward": Penalty("k3", "reward"),
    "k1_loss": Penalty("k1", "loss"),
    "k2_loss": Penalty("k2", "loss", right=True),
    "k3_loss": Penalty("k3", "loss"),
    "k2_token_loss": Penalty("k2", "loss", tokens=True),
    "k3_token_loss": Penalty("k3", "loss", tokens=True),
}


def penalty_of(penalty: Penalty, log_p: Array, log_ref: Array, mask: Array) -> Array:
    """The penalty of each sequence. The arguments are those of tokens, shape `(..., L)`."""
    if penalty.tokens:
        return rgrad.kl_penalty(log_p, log_ref, penalty.kind, mask).sum(-1)
    return rgrad.kl_penalty(log_p.sum(-1), log_ref.sum(-1), penalty.kind)


def terms_of(way: SequenceWay, advantages: Array, log_p: Array, log_old: Array) -> Array:
    """What each answer adds to the objective, shape `(n,)`. `log_p` and `log_old` are those of tokens, shape `(n, L)`."""
    if way.ratio == "clipped":
        ratio = jnp.exp(log_p - lax.stop_gradient(log_old))  # 1 for padding, which has no derivative
        a = advantages[:, None]
        return jnp.minimum(ratio * a, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * a).sum(-1)
    weights = jnp.exp((log_p - log_old).sum(-1)) if way.ratio == "sequence" else None
    return rgrad.surrogate(advantages, log_p.sum(-1), weights=weights)


def advantages_of(way: SequenceWay, rewards: Array, groups: np.ndarray) -> Array:
    if way.baseline == "batch":
        return rewards - rewards.mean()
    return rgrad.group_advantages(rewards, groups, way.baseline, way.scale)


def loss_terms(way: SequenceWay, penalty: Penalty, log_p: Array, log_old: Array, log_ref: Array, mask: Array) -> Array:
    """The penalty of each answer as a loss, weighted if the answers come from an older policy and `way` corrects it."""
    each = penalty_of(penalty, log_p, log_ref, mask)
    if way.ratio != "sequence":
        return each
    weights = jnp.exp((log_p - log_old).sum(-1))
    return lax.stop_gradient(weights) * each


class Choice(NamedTuple):
    """A way and a penalty as numbers, so that one compiled program serves all of them, by `jax.vmap`."""

    advantage: int | Array
    ratio: int | Array
    length: int | Array
    kind: int | Array
    in_reward: bool | Array
    as_loss: bool | Array
    old: bool | Array
    epochs: int | Array


class Menu(NamedTuple):
    """What a program must be able to do: the fewer ways there are, the faster it compiles."""

    advantages: tuple[tuple[Any, Any], ...]
    """Baselines and scales."""
    ratios: tuple[Any, ...]
    lengths: tuple[Any, ...]
    estimates: tuple[tuple[Any, bool], ...]
    """Kinds of penalties, and whether they are summed over tokens."""


def menu_of(calls: Sequence[tuple[SequenceWay, Penalty | None]]) -> Menu:
    once = lambda values: tuple(dict.fromkeys(values))
    return Menu(
        once((way.baseline, way.scale) for way, _ in calls), once(way.ratio for way, _ in calls),
        once(way.length for way, _ in calls),
        once((p.kind, p.tokens) for _, p in calls if p is not None) or (("k1", False),),
    )  # fmt: skip


def choice_of(way: SequenceWay, penalty: Penalty | None, menu: Menu) -> Choice:
    at = (
        menu.advantages.index((way.baseline, way.scale)),
        menu.ratios.index(way.ratio),
        menu.lengths.index(way.length),
    )
    kind = 0 if penalty is None else menu.estimates.index((penalty.kind, penalty.tokens))
    place = None if penalty is None else penalty.place
    return Choice(*at, kind, place == "reward", place == "loss", way.old, way.epochs)


def batch_objective(
    logits: Array,
    old: Array,
    reference: Array,
    answers: Array,
    seqs: Sequences,
    beta: float,
    choice: Choice,
    menu: Menu,
) -> Array:
    """What an estimator ascends, from answers of shape `(prompts, k)`: numbers of sequences. A scalar.

    Args:
        old: the policy that wrote the answers. Only the ratios look at it.
    """
    prompts, k = answers.shape
    rows = jnp.arange(prompts)[:, None]
    of = lambda x: token_log_probs(x, seqs)[rows, answers].reshape(prompts * k, -1)
    log_p, log_old, log_ref = of(logits), of(old), of(reference)
    mask, groups = jnp.asarray(seqs.mask)[answers.ravel()], np.repeat(np.arange(prompts), k)
    estimates = [penalty_of(Penalty(kind, "loss", tokens), log_p, log_ref, mask) for kind, tokens in menu.estimates]
    penalty = beta * jnp.stack(estimates)[choice.kind]
    rewards = jnp.asarray(seqs.rewards, log_p.dtype)[rows, answers].ravel()
    rewards = rewards - lax.stop_gradient(jnp.where(choice.in_reward, penalty, 0.0))
    ways = [SequenceWay(baseline, scale) for baseline, scale in menu.advantages]
    advantages = jnp.stack([advantages_of(way, rewards, groups) for way in ways])[choice.advantage]
    each = [terms_of(SequenceWay(ratio=ratio), advantages, log_p, log_old) for ratio in menu.ratios]
    weighted = jnp.asarray([ratio == "sequence" for ratio in menu.ratios])[choice.ratio]
    weights = jnp.where(weighted, jnp.exp((log_p - log_old).sum(-1)), 1.0)
    lost = lax.stop_gradient(weights) * jnp.where(choice.as_loss, penalty, 0.0)
    lengths = mask.sum(-1).reshape(prompts, k)
    weight = jnp.stack([length_weights(SequenceWay(length=length), lengths) for length in menu.lengths])[choice.length]
    return (weight.ravel() * (jnp.stack(each)[choice.ratio] - lost)).sum() / prompts


def length_weights(way: SequenceWay, lengths: Array) -> Array:
    """The weight of each answer of a group. Shape `(groups, k)`, as the lengths."""
    k, lengths = lengths.shape[1], jnp.asarray(lengths, float)
    if way.length == "sequence":
        return 1 / (k * lengths)
    if way.length == "token":
        return jnp.broadcast_to(1 / lengths.sum(1, keepdims=True), lengths.shape)
    return jnp.full(lengths.shape, 1 / k)
