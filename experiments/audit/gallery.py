"""Losses as they are found in published code: common mistakes, and next to them some that are right.

Each loss is `loss(params, key) -> scalar`. If its value does not estimate the objective, `value` does.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

Loss = Callable[[Any, Array], Array]

REWARD = jnp.array([1.0, 2.0, 0.0])  # of three actions
LOGITS = jnp.array([0.5, -0.3, 0.1])  # of the policy
BEHAVIOUR = jnp.array([0.0, 0.2, 0.4])  # the logits of the policy that drew the actions, or of the reference
BATCH = 4
SIGMA = 0.5
MEAN_FIELD = {"mean": 0.2, "log_var": -0.6}


class GalleryLoss(NamedTuple):
    loss: Loss
    params: Any
    mistake: str
    """Empty if the gradient is right."""
    value: Loss | None = None

    @property
    def right(self) -> bool:
        return not self.mistake


# Discrete choices.
def bit_by_where(p: Array, key: Array) -> Array:
    bit = jnp.where(jax.random.uniform(key) < p, 1.0, 0.0)
    return (bit - 0.3) ** 2


def class_by_argmax(logits: Array, key: Array) -> Array:
    action = jnp.argmax(logits + jax.random.gumbel(key, logits.shape))
    return -REWARD[action]


def straight_through(logit: Array, key: Array) -> Array:
    p = jax.nn.sigmoid(logit)
    bit = jnp.where(jax.random.uniform(key) < p, 1.0, 0.0)
    bit = p + stop_gradient(bit - p)
    return (bit - 0.45) ** 2


# Policy gradients. Each batch has `BATCH` actions.
def rollout(logits: Array, key: Array) -> tuple[Array, Array]:
    """Actions, and their noisy rewards."""
    for_action, for_reward = jax.random.split(key)
    actions = jax.random.categorical(for_action, logits, shape=(BATCH,))
    return actions, REWARD[actions] + 0.1 * jax.random.normal(for_reward, (BATCH,))


def log_prob(logits: Array, actions: Array) -> Array:
    return jax.nn.log_softmax(logits)[actions]


def negative_reward(logits: Array, key: Array) -> Array:
    return -jnp.mean(rollout(logits, key)[1])


def batch_mean(logits: Array, key: Array) -> Array:
    actions, rewards = rollout(logits, key)
    advantages = rewards - jnp.mean(rewards)
    return -jnp.mean(advantages * log_prob(logits, actions))


def normalised_advantages(logits: Array, key: Array) -> Array:
    actions, rewards = rollout(logits, key)
    advantages = (rewards - jnp.mean(rewards)) / (jnp.std(rewards) + 1e-8)
    return -jnp.mean(advantages * log_prob(logits, actions))


def leave_one_out(logits: Array, key: Array) -> Array:
    actions, rewards = rollout(logits, key)
    advantages = rewards - (jnp.sum(rewards) - rewards) / (BATCH - 1)
    return -jnp.mean(advantages * log_prob(logits, actions))


# Actions of an older policy.
def ratios(logits: Array, actions: Array) -> Array:
    return jnp.exp(log_prob(logits, actions) - log_prob(BEHAVIOUR, actions))


def off_policy(logits: Array, key: Array) -> Array:
    actions, rewards = rollout(BEHAVIOUR, key)
    return -jnp.mean(ratios(logits, actions) * rewards)


def clipped_ratio(logits: Array, key: Array) -> Array:
    actions, rewards = rollout(BEHAVIOUR, key)
    ratio = ratios(logits, actions)
    return -jnp.mean(jnp.minimum(ratio * rewards, jnp.clip(ratio, 0.8, 1.2) * rewards))


def weights_twice(logits: Array, key: Array) -> Array:
    actions, rewards = rollout(BEHAVIOUR, key)
    weights = ratios(logits, actions)
    return -jnp.mean(weights * rewards * log_prob(logits, actions))


# The penalty KL(policy || reference), from actions of the policy.
def log_ratios(logits: Array, key: Array) -> Array:
    actions = jax.random.categorical(key, logits, shape=(BATCH,))
    return log_prob(logits, actions) - log_prob(BEHAVIOUR, actions)


def k1(logits: Array, key: Array) -> Array:
    return jnp.mean(log_ratios(logits, key))


def k2(logits: Array, key: Array) -> Array:
    return jnp.mean(log_ratios(logits, key) ** 2) / 2


def k3(logits: Array, key: Array) -> Array:
    r = log_ratios(logits, key)
    return jnp.mean(jnp.exp(-r) - 1 + r)


# The negative ELBO of one datum, x = 1: z ~ N(0, 1), x | z ~ N(z, 1), and a normal q(z).
def log_normal(x: Array, mean: Any, log_var: Any) -> Array:
    return -((x - mean) ** 2 / jnp.exp(log_var) + log_var + jnp.log(2 * jnp.pi)) / 2


def latent(q: Any, key: Array) -> Array:
    z: Array = q["mean"] + jnp.exp(q["log_var"] / 2) * jax.random.normal(key)
    return z


def negative_elbo(q: Any, key: Array) -> Array:
    z = latent(q, key)
    return log_normal(z, q["mean"], q["log_var"]) - log_normal(z, 0.0, 0.0) - log_normal(1.0 - z, 0.0, 0.0)


def wrong_term_detached(q: Any, key: Array) -> Array:
    z = latent(q, key)
    log_q = log_normal(stop_gradient(z), q["mean"], q["log_var"])
    return log_q - log_normal(z, 0.0, 0.0) - log_normal(1.0 - z, 0.0, 0.0)


def sticking_the_landing(q: Any, key: Array) -> Array:
    z = latent(q, key)
    log_q = log_normal(z, stop_gradient(q["mean"]), stop_gradient(q["log_var"]))
    return log_q - log_normal(z, 0.0, 0.0) - log_normal(1.0 - z, 0.0, 0.0)


def kl_of_the_wrong_sign(q: Any, key: Array) -> Array:
    z = latent(q, key)
    kl = 0.5 * (1 + q["log_var"] - q["mean"] ** 2 - jnp.exp(q["log_var"]))
    return kl - log_normal(1.0 - z, 0.0, 0.0)


# Gradients written by hand.
@jax.custom_vjp
def half_square(x: Array) -> Array:
    return 0.5 * x**2


half_square.defvjp(lambda x: (half_square(x), x), lambda x, g: (2 * x * g,))


def custom_rule(mean: Array, key: Array) -> Array:
    return half_square(mean + jax.random.normal(key))


def perturbed_cost(scores: Array, noise: Array) -> Array:
    return -REWARD[jnp.argmax(scores + SIGMA * noise)]


def perturbed(scores: Array, key: Array) -> Array:
    return perturbed_cost(scores, jax.random.normal(key, scores.shape))


def perturbed_without_sigma(scores: Array, key: Array) -> Array:
    noise = jax.random.normal(key, scores.shape)
    return stop_gradient(perturbed_cost(scores, noise)) * jnp.dot(noise, scores)


LOSSES: Mapping[str, GalleryLoss] = {
    "bit by where": GalleryLoss(bit_by_where, 0.4, "a comparison decides the bit"),
    "class by argmax": GalleryLoss(class_by_argmax, LOGITS, "an argmax chooses the class"),
    "batch mean as baseline": GalleryLoss(
        batch_mean, LOGITS, "the mean includes the sample itself: 1 - 1/n of the gradient is left", negative_reward
    ),
    "normalised advantages": GalleryLoss(
        normalised_advantages, LOGITS, "the scale of the rewards is lost", negative_reward
    ),
    "leave-one-out baseline": GalleryLoss(leave_one_out, LOGITS, "", negative_reward),
    "straight-through": GalleryLoss(straight_through, 1.0, "the sample is replaced by its probability"),
    "clipped ratio (PPO)": GalleryLoss(clipped_ratio, LOGITS, "clipped samples have no gradient", off_policy),
    "weights differentiated twice": GalleryLoss(
        weights_twice, LOGITS, "the weights are not detached, so they count twice", off_policy
    ),
    "k1 as a loss": GalleryLoss(k1, LOGITS, "the mean gradient is 0"),
    "k2 as a loss": GalleryLoss(k2, LOGITS, "", k1),
    "k3 as a loss": GalleryLoss(k3, LOGITS, "the gradient is that of KL(reference || policy)"),
    "ELBO, wrong term detached": GalleryLoss(
        wrong_term_detached, MEAN_FIELD, "z is detached, not the parameters of q", negative_elbo
    ),
    "ELBO, sticking the landing": GalleryLoss(sticking_the_landing, MEAN_FIELD, "", negative_elbo),
    "ELBO, KL of the wrong sign": GalleryLoss(
        kl_of_the_wrong_sign, MEAN_FIELD, "the KL divergence has no minus sign", negative_elbo
    ),
    "custom_vjp, twice too large": GalleryLoss(custom_rule, 0.8, "the rule is that of x^2, the function is x^2 / 2"),
    "perturbed argmax without 1/sigma": GalleryLoss(
        perturbed_without_sigma, LOGITS, "the score of the noise is z / sigma, not z", perturbed
    ),
}
"""By the names in `AuditSettings.gallery`."""
