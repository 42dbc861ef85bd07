# %% [markdown]
# # 7. Policy gradients
#
# You train a policy, perhaps a language model. You draw some answers to each question, reward them, and follow a gradient.
# Which gradient is right? In this tutorial there are few enough answers to know the truth: we sum over all of them.
#
# You will see
#
# 1. that RLOO is unbiased, and what GRPO's standard deviation does,
# 2. that a KL penalty may have no effect at all, and which ones work,
# 3. how much a baseline reduces the noise.

# %%
import math

import jax
import jax.numpy as jnp
import numpy as np

import rgrad

# %% [markdown]
# ## The policy
#
# Two questions with three answers each. The answers to the first are rewarded often, those to the second rarely. The expected
# reward is a sum over the answers, so `jax.grad` gives the exact gradient.

# %%
REWARDS = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # (questions, answers)
LOGITS = jnp.array([[1.5, 0.5, 0.0], [-2.0, 1.0, 1.0]])


def expected_reward(logits):
    return (jax.nn.softmax(logits) * REWARDS).sum(1).mean()


truth = jax.grad(expected_reward)(LOGITS)
print("success rates:", (jax.nn.softmax(LOGITS) * REWARDS).sum(1))
print("the exact gradient:\n", truth)

# %% [markdown]
# ## An estimate
#
# We draw K = 16 answers to each question. `rgrad.group_advantages` compares each answer with the others to its question, and
# `rgrad.surrogate` attaches the advantages to the log probabilities: its mean is what we differentiate.

# %%
K = 16
GROUPS = np.repeat([0, 1], K)


def estimate(logits, answers, baseline="leave_one_out", scale=None):
    """A batch of answers, of shape (questions, K). The gradient of the result is the gradient estimate."""
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), answers, axis=1).ravel()
    rewards = jnp.take_along_axis(REWARDS, answers, axis=1).ravel()
    advantages = rgrad.group_advantages(rewards, GROUPS, baseline, scale)
    return rgrad.surrogate(advantages, log_probs).mean()


def draw(key, **options):
    answers = jax.random.categorical(key, LOGITS, shape=(K, 2)).T
    return jax.grad(estimate)(LOGITS, answers, **options)


one = jax.jit(draw)(jax.random.key(0))
print("one estimate:\n", one)

# %% [markdown]
# ## Is it right on average?
#
# `rgrad.measure` computes the mean and the variance of many estimates. We compare three of them with the truth.

# %%
NAMES = {
    "RLOO": {},
    "Dr. GRPO": {"baseline": "mean"},
    "GRPO": {"baseline": "mean", "scale": "std"},
    "no baseline": {"baseline": None},
}

for name, options in NAMES.items():
    moments = rgrad.measure(lambda key, options=options: draw(key, **options), jax.random.key(1), 10_000)
    factors = (moments.mean * truth).sum(1) / (truth**2).sum(1)
    print(f"{name:12} factors of the questions: {factors.round(2)}   total variance: {moments.variance.sum():.4f}")

# %% [markdown]
# - RLOO: the factors are 1, up to noise. It is unbiased.
# - Dr. GRPO: 0.94 = 1 - 1/K for both. That is RLOO with a smaller learning rate.
# - GRPO: each question has a factor of its own. The rarely solved one counts more. So GRPO follows another objective.
# - Without a baseline the estimate is unbiased too, but its variance is larger.
#
# The factor of a question with success rate p is `E[s] / (p (1 - p))`, with s the standard deviation of the rewards in the group
# (and times `sqrt(1 - 1/K)` with `ddof=1`). No sampling is needed to check this: a group has 0, 1, ... or K successes.

# %%
counts = np.arange(K + 1)
groups = np.where(np.arange(K) < counts[:, None], 1.0, 0.0)  # one group for each number of successes
advantages = rgrad.group_advantages(groups.ravel(), np.repeat(counts, K), "mean", "std").reshape(groups.shape)
for p in (jax.nn.softmax(LOGITS) * REWARDS).sum(1).tolist():
    weight = np.array([math.comb(K, m) * p**m * (1 - p) ** (K - m) for m in counts])
    score = np.where(groups == 1, 1 / p, -1 / (1 - p))
    found = weight @ (advantages * score).mean(1)
    formula = weight @ groups.std(1) / (p * (1 - p)) * (1 - 1 / K) ** 0.5
    print(f"success rate {p:.3f}: GRPO's factor is {found:.3f} by enumeration, {formula:.3f} by the formula")

# %% [markdown]
# ## A KL penalty without effect
#
# We want to stay near a reference. Three estimates of KL(policy, reference) are in use: k1, k2 and k3. We add each as a *loss*,
# and compare its mean gradient with that of the divergence. The mean is a sum over the three answers.

# %%
REFERENCE = jax.nn.log_softmax(jnp.array([0.0, 0.0, 1.0]))


def mean_loss(logits, kind):
    """The mean over the answers, at fixed answers: only the derivative of the penalty itself counts."""
    log_p = jax.nn.log_softmax(logits)
    return (jax.lax.stop_gradient(jnp.exp(log_p)) * rgrad.kl_penalty(log_p, REFERENCE, kind)).sum()


def divergence(logits):
    log_p = jax.nn.log_softmax(logits)
    return (jnp.exp(log_p) * (log_p - REFERENCE)).sum()


print("KL(policy, reference):", jax.grad(divergence)(LOGITS[0]).round(4))
for kind in ("k1", "k2", "k3"):
    print(f"{kind} as a loss:        ", jax.grad(mean_loss)(LOGITS[0], kind).round(4))

# %% [markdown]
# k1 as a loss has the gradient 0: it has no effect. k2 is right. k3 is something else: the gradient of KL(reference, policy).
#
# ## Exercise
#
# In the *reward*, a penalty is a constant: `rewards - beta * penalty`. Its mean gradient is the sum over the answers of
# `p(x) penalty(x) d log p(x)`. Which of k1, k2 and k3 is right there? Write this sum, and compare.
#
# Hint: `rgrad.attach(penalty, log_p)` adds `penalty * d log_p` to the derivative of a constant penalty.

# %% [markdown]
# ## Answer
#
# k1 is right in the reward, and k2 is right as a loss. `python -m experiments.policy` shows where training ends with each of
# them, and the bias of length normalisation and of PPO.


# %%
def mean_in_reward(logits, kind):
    log_p = jax.nn.log_softmax(logits)
    penalty = jax.lax.stop_gradient(rgrad.kl_penalty(log_p, REFERENCE, kind))
    return (jax.lax.stop_gradient(jnp.exp(log_p)) * rgrad.attach(penalty, log_p)).sum()


right = jax.grad(divergence)(LOGITS[0])
for kind in ("k1", "k2", "k3"):
    found = jax.grad(mean_in_reward)(LOGITS[0], kind)
    print(f"{kind} in the reward:", found.round(4), "right" if jnp.allclose(found, right, atol=1e-5) else "wrong")
assert jnp.allclose(jax.grad(mean_in_reward)(LOGITS[0], "k1"), right, atol=1e-5)
assert jnp.allclose(jax.grad(mean_loss)(LOGITS[0], "k2"), right, atol=1e-5)
