"""By how much dividing by the standard deviation changes the gradient of a prompt, and what length normalisation weighs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

import rgrad
from experiments.policy.sequences import Sequences
from experiments.policy.ways import SequenceWay, length_weights

RATES = (0.01, 0.1, 0.5, 0.9)
SIZES = (2, 4, 16, 64)
DDOF = 1


def grpo_factor(rate: float, k: int, ddof: int = DDOF, eps: float = 0.0) -> float:
    """The mean of GRPO's gradient over the true one, for rewards of 0 and 1: a sum over the number of successes."""
    with jax.enable_x64(True):
        counts = np.arange(k + 1)
        groups = (np.arange(k) < counts[:, None]).astype(float)
        a = rgrad.group_advantages(groups.ravel(), np.repeat(counts, k), "mean", "std", ddof, eps)
    score = np.where(groups == 1, 1 / rate, -1 / (1 - rate))
    return float(stats.binom(k, rate).pmf(counts) @ (np.asarray(a).reshape(groups.shape) * score).mean(1))


def normal_factor(k: int, ddof: int = DDOF, eps: float = 0.0) -> float:
    """The same for normal rewards with standard deviation 1: an integral over the standard deviation of the group."""
    spread = lambda radius: radius / math.sqrt(k - ddof)
    inside = lambda radius: stats.chi(k - 1).pdf(radius) * radius**2 / k / (spread(radius) + eps)
    return float(integrate.quad(inside, 0, np.inf)[0])


def weights_by_length(place_log_p: np.ndarray, seqs: Sequences, k: int, length: str | None) -> dict[int, float]:
    """The mean weight of an answer of each length, times k and the mean length: 1 everywhere without normalisation.

    Exact: a sum over the lengths of the other answers, whose distribution is a convolution.
    """
    lengths = seqs.lengths
    p = np.exp(place_log_p)
    mass = np.array([(p * (lengths == n)).sum() for n in range(lengths.max() + 1)])
    others = np.array([1.0])
    for _ in range(k - 1):
        others = np.convolve(others, mass)
    mean = float(mass @ np.arange(len(mass)))
    found = {}
    for n in sorted(set(lengths.tolist())):
        totals = np.arange(len(others)) + n
        if length == "token":
            weight = others @ (1 / totals)
        else:
            way = SequenceWay(length="sequence") if length == "sequence" else SequenceWay()
            weight = float(length_weights(way, jnp.full((1, k), n))[0, 0])
        found[n] = float(weight * k * (mean if length else 1.0))
    return found
