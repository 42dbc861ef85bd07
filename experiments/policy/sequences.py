"""A tiny language model: all sequences of a few tokens, a softmax policy over them, and prompts with rewards."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LETTERS = "abcd"


class Prompt(NamedTuple):
    """A question, and how its answers are rewarded."""

    name: str
    reward: Callable[[str], float]
    """Of the letters of an answer, without the end token."""


PROMPTS = (
    Prompt("write anything", lambda text: float(len(text) > 0)),
    Prompt("start with b", lambda text: float(text[:1] == "b")),
    Prompt("two different letters", lambda text: float(len(text) == 2 and text[0] != text[1])),
    Prompt("abab", lambda text: float(text == "abab")),
    Prompt("many a, but short", lambda text: text.count("a") / 4 - 0.1 * len(text)),
)


class Sequences(NamedTuple):
    """Every sequence that the policy can write. S of them, of at most L tokens, padded."""

    texts: tuple[str, ...]
    """The letters, without the end token."""
    tokens: np.ndarray
    """Shape `(S, L)`. The last token of the vocabulary is the end."""
    previous: np.ndarray
    """Shape `(S, L)`, the token before; the end token stands for the start."""
    mask: np.ndarray
    """Shape `(S, L)`, False for padding."""
    rewards: Any
    """Shape `(prompts, S)`, an array."""

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens, with the end token. Sequences of L letters have none: they are cut off."""
        return self.mask.sum(1)


def all_sequences(vocabulary: int, length: int) -> Sequences:
    letters = LETTERS[: vocabulary - 1]
    texts = ["".join(text) for n in range(length + 1) for text in itertools.product(letters, repeat=n)]
    end = vocabulary - 1
    tokens = np.full((len(texts), length), end)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = [letters.index(letter) for letter in text]
    lengths = np.minimum([len(text) + 1 for text in texts], length)
    mask = np.arange(length) < lengths[:, None]
    previous = np.concatenate([np.full((len(texts), 1), end), tokens[:, :-1]], axis=1)
    rewards = np.array([[prompt.reward(text) for text in texts] for prompt in PROMPTS])
    return Sequences(tuple(texts), tokens, previous, mask, rewards)


def initial_logits(key: Array, vocabulary: int, spread: float) -> Array:
    """The parameters, shape `(vocabulary + prompts, vocabulary)`: logits by the token before, plus logits by prompt."""
    return spread * jax.random.normal(key, (vocabulary + len(PROMPTS), vocabulary))


def token_log_probs(logits: Array, seqs: Sequences) -> Array:
    """The log probability of each token of each sequence, shape `(prompts, S, L)`, 0 for padding."""
    vocabulary = logits.shape[1]
    by_token, by_prompt = logits[:vocabulary], logits[vocabulary:]
    table = jax.nn.log_softmax(by_token[None] + by_prompt[:, None])  # (prompts, token before, token)
    return jnp.where(jnp.asarray(seqs.mask)[None], table[:, seqs.previous, seqs.tokens], 0.0)


def objective(logits: Array, reference: Array, seqs: Sequences, beta: float) -> tuple[Array, Array, Array]:
    """`E[reward] - beta KL(policy, reference)`, and its two parts: means over the prompts, exact."""
    log_p, log_ref = (token_log_probs(x, seqs).sum(-1) for x in (logits, reference))
    p = jnp.exp(log_p)
    reward, divergence = (p * seqs.rewards).sum(1).mean(), (p * (log_p - log_ref)).sum(1).mean()
    return reward - beta * divergence, reward, divergence
