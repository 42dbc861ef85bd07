"""The two problems: D bits with `f(b) = mean (b - t)^2`, and one of K categories with `f(x) = (v.x - t)^2`."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad


class DiscreteProblem(Protocol):
    """A distribution with logits, and an objective with a target t."""

    @property
    def name(self) -> str: ...

    def start(self, logit: float) -> Array:
        """The logits at which the gradient is measured and training starts."""

    def distribution(self, logits: Array) -> Any: ...

    def objective(self, target: Array, x: Array) -> Array: ...

    def exact_loss(self, logits: Array, target: Array) -> Array: ...

    def exact_gradient(self, logit: float, targets: np.ndarray) -> np.ndarray:
        """With respect to the first logit, in 64 bits, for each target."""

    def least(self, target: float) -> float:
        """The smallest value of f."""

    def samples(self, evaluations_of: Any) -> int:
        """The samples in one gradient estimate, for an estimator that takes `evaluations_of(q, n)` evaluations."""


class Bits(NamedTuple):
    """D bits with one logit each: the toy problem of the literature. All estimators take n samples."""

    size: int
    n: int
    name: str = "bits"

    def start(self, logit: float) -> Array:
        return jnp.full(self.size, logit)

    def distribution(self, logits: Array) -> Any:
        return dist.Bernoulli(logits=logits).to_event(1)

    def objective(self, target: Array, x: Array) -> Array:
        return jnp.mean((x - target) ** 2)

    def exact_loss(self, logits: Array, target: Array) -> Array:
        p = jax.nn.sigmoid(logits)
        return jnp.mean(p * (1 - target) ** 2 + (1 - p) * target**2)

    def exact_gradient(self, logit: float, targets: np.ndarray) -> np.ndarray:
        """`p (1 - p) ((1 - t)^2 - t^2) / D`."""
        p = 1 / (1 + np.exp(-logit))
        return p * (1 - p) * (1 - 2 * np.asarray(targets, np.float64)) / self.size

    def least(self, target: float) -> float:
        return min(target, 1 - target) ** 2

    def samples(self, evaluations_of: Any) -> int:
        return self.n


class Categories(NamedTuple):
    """One of K categories, as a one-hot vector x, and v from 0 to 1. All estimators take as many evaluations of f."""

    size: int
    evaluations: int
    name: str = "categories"

    def start(self, logit: float) -> Array:
        """The first has the given logit, and the others have 0."""
        return jnp.zeros(self.size).at[0].set(logit)

    def distribution(self, logits: Array) -> Any:
        return rgrad.OneHotCategorical(logits)

    def objective(self, target: Array, x: Array) -> Array:
        return (jnp.dot(jnp.linspace(0.0, 1.0, self.size), x) - target) ** 2

    def exact_loss(self, logits: Array, target: Array) -> Array:
        return jax.nn.softmax(logits) @ (jnp.linspace(0.0, 1.0, self.size) - target) ** 2

    def exact_gradient(self, logit: float, targets: np.ndarray) -> np.ndarray:
        """`p_0 (f_0 - sum_k p_k f_k)`."""
        f = (np.linspace(0.0, 1.0, self.size) - np.asarray(targets, np.float64)[:, None]) ** 2
        p = np.exp(np.append(logit, np.zeros(self.size - 1)))
        p /= p.sum()
        return p[0] * (f[:, 0] - f @ p)

    def least(self, target: float) -> float:
        return float(np.min((np.linspace(0.0, 1.0, self.size) - target) ** 2))

    def samples(self, evaluations_of: Any) -> int:
        """As many as the evaluations allow, and at least 1. The exact sum takes K evaluations in any case."""
        q = self.distribution(self.start(0.0))
        each = evaluations_of(q, 2) - evaluations_of(q, 1)
        return max(1, self.evaluations // each) if each else 1
