"""Discrete distributions as thresholds of continuous noise. The thresholds can be relaxed."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from rgrad.distributions.log_density import log_prob
from rgrad.distributions.wrappers import elementary, name_of
from rgrad.errors import NoRule
from rgrad.protocols import Sample


class OneHotCategorical(dist.Distribution):  # type: ignore[misc]
    """A Categorical whose samples are one-hot vectors, floats of shape `(K,)`.

    The relaxations need one-hot vectors: an f of an index is not defined between two indices, but an f of a vector may
    be defined between two corners of the simplex. The same f of a one-hot vector works with every estimator, e.g.
    `f = lambda x: jnp.dot(values, x)`.

    Args:
        logits: shape `(..., K)`, unnormalised. Use `jnp.log(p)` for probabilities.

    Example:
        >>> values = jnp.array([1.0, 2.0, 4.0])
        >>> def loss(p):
        ...     return rgrad.expect(lambda x: jnp.dot(values, x), rgrad.OneHotCategorical(jnp.log(p)), key, 1, rgrad.enumerated)
        >>> print(f"{jax.jit(loss)(jnp.array([0.2, 0.3, 0.5])):.1f}")  # 0.2 * 1 + 0.3 * 2 + 0.5 * 4
        2.8
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.simplex
    has_enumerate_support = True

    def __init__(self, logits: ArrayLike, *, validate_args: bool | None = None):
        self.logits = jnp.asarray(logits) * 1.0
        *batch, classes = self.logits.shape
        super().__init__(tuple(batch), (classes,), validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        index = jax.random.categorical(key, self.logits, shape=sample_shape + self.batch_shape)
        return jax.nn.one_hot(index, *self.event_shape, dtype=self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        # For a class that is ruled out, 0 times -inf would be nan.
        log_p = jnp.maximum(jax.nn.log_softmax(self.logits), jnp.finfo(self.logits.dtype).min)
        return (value * log_p).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Array:
        (classes,) = self.event_shape
        values = jnp.eye(classes, dtype=self.logits.dtype).reshape(classes, *(1,) * len(self.batch_shape), classes)
        return jnp.broadcast_to(values, (classes, *self.batch_shape, classes)) if expand else values


class Logistic(NamedTuple):
    """A Bernoulli as the sign of `z = logits + logistic noise`. n samples have shape `(n, *event_shape)`."""

    logits: Array

    def sample(self, key: Array, n: int) -> Array:
        """z, differentiable in the logits."""
        return self.logits + jax.random.logistic(key, (n, *self.logits.shape), self.logits.dtype)

    def hard(self, z: Array) -> Array:
        """The discrete sample, without derivatives."""
        return (z > 0).astype(int)

    def soft(self, z: Array) -> Array:
        return jax.nn.sigmoid(z)

    def along(self, p: Array) -> Array:
        """A function of the logits. Its derivative is that of `soft` where `soft` is p, of shape `(n, *event_shape)`."""
        p = lax.stop_gradient(p)
        return p * (1 - p) * self.logits

    def given(self, b: Array, key: Array) -> Array:
        """z given `hard(z) = b`, differentiable in the logits, as a function of new noise."""
        sign = jnp.where(b == 1, 1.0, -1.0).astype(self.logits.dtype)
        noise = jax.random.logistic(key, b.shape, self.logits.dtype)
        return sign * jax.nn.softplus(noise + jax.nn.softplus(sign * self.logits))


class Gumbels(NamedTuple):
    """A one-hot vector as the largest entry of `z = logits + Gumbel noise`. The logits are normalised."""

    logits: Array

    def sample(self, key: Array, n: int) -> Array:
        """z, differentiable in the logits."""
        return self.logits + jax.random.gumbel(key, (n, *self.logits.shape), self.logits.dtype)

    def hard(self, z: Array) -> Array:
        """The discrete sample, without derivatives."""
        return jax.nn.one_hot(z.argmax(-1), z.shape[-1], dtype=z.dtype)

    def soft(self, z: Array) -> Array:
        return jax.nn.softmax(z)

    def along(self, p: Array) -> Array:
        """A function of the logits. Its derivative is that of `soft` where `soft` is p, of shape `(n, *event_shape)`."""
        p = lax.stop_gradient(p)
        logits = jnp.where(jnp.isneginf(self.logits), 0.0, self.logits)  # p is 0 there
        return p * (logits - (p * logits).sum(-1, keepdims=True))

    def given(self, b: Array, key: Array) -> Array:
        """z given `hard(z) = b`, differentiable in the logits. The largest entry is Gumbel; the others lie below it."""
        noise = jax.random.gumbel(key, b.shape, self.logits.dtype)
        largest = (b * noise).sum(-1, keepdims=True)
        return jnp.where(b == 1, largest, -jnp.logaddexp(-(self.logits + noise), -largest))


def log_prob_between(q: Any, x: Sample) -> Array:
    """`log_prob(q, x)`, which for bits is also defined between 0 and 1: `x logits - softplus(logits)` for each bit.

    Relaxations evaluate f there, and in an ELBO or a bound f contains this density. It is nan outside [0, 1].
    """
    inner = elementary(q)
    if not isinstance(inner, dist.BernoulliProbs | dist.BernoulliLogits) or not jnp.issubdtype(x.dtype, jnp.floating):
        return log_prob(q, x)
    logits = jnp.broadcast_to(inner.logits * 1.0, q.event_shape)
    each = x * logits - jax.nn.softplus(logits)
    return jnp.sum(jnp.where((x >= 0) & (x <= 1), each, jnp.nan))


def relaxation(q: Any, caller: str) -> Logistic | Gumbels:
    """The continuous noise that a threshold turns into a sample of `q`.

    Raises:
        NotImplementedError: `q` has no such noise.
    """
    inner = elementary(q)
    if isinstance(inner, dist.BernoulliProbs | dist.BernoulliLogits):
        return Logistic(jnp.broadcast_to(inner.logits * 1.0, q.event_shape))
    if isinstance(inner, OneHotCategorical):
        return Gumbels(jnp.broadcast_to(jax.nn.log_softmax(inner.logits), q.event_shape))
    if isinstance(inner, dist.CategoricalProbs | dist.CategoricalLogits):
        raise NoRule(
            f"{caller}: the samples of {name_of(q)} are indices, and f has no values between indices",
            "use OneHotCategorical(logits), whose samples are one-hot vectors, and an f of one-hot vectors",
        )
    raise NoRule(
        f"{caller} has no relaxation of {name_of(inner)} (supported: Bernoulli, OneHotCategorical, and vectors of them)"
    )
