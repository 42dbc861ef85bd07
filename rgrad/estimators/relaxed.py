"""Relaxations of discrete distributions, which are differentiable and **biased**: Gumbel-softmax, straight-through."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from rgrad.autodiff import first_order
from rgrad.distributions.draws import WithKey, check_draw, evaluate
from rgrad.distributions.implicit import elementary
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.protocols import Objective


def gumbel_softmax(f: Objective, q: Any, key: Array, n: int, *, temperature: ArrayLike = 0.5) -> Array:
    """**Biased**, in the value too: another expectation, of a continuous variable near the discrete one.

    With z = logits + noise, whose sign (or largest entry) has the law of `q`:

        terms_i = f(sigmoid(z_i / temperature))     a Bernoulli, with logistic noise: a point in (0, 1)
        terms_i = f(softmax(z_i / temperature))     a OneHotCategorical, with Gumbel noise: a point inside the simplex

    Needs an f that is defined, and differentiable almost everywhere, between the values of `q`, as floats. The bias is
    that of `E[f(relaxed)]` for `E[f(x)]`: it vanishes as the temperature falls to 0, where the variance grows without
    bound; a linear f is biased as well. Derivatives of every order are those of the relaxed expectation.

    Args:
        temperature: > 0; traced or not, and differentiable.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` with a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation: it is no Bernoulli or OneHotCategorical, nor a vector of them.

    Source: Jang, Gu and Poole 2017 (eq. 2); Maddison, Mnih and Teh 2017.
    """
    base, keyed = (q.base, True) if isinstance(q, WithKey) else (q, False)
    check_draw(base, n, "gumbel_softmax")
    check_temperature(temperature, "gumbel_softmax")
    how = relaxation(base, "gumbel_softmax")
    for_z, for_f = jax.random.split(key)
    x = how.soft(how.sample(for_z, n) / temperature)
    terms = evaluate(f, (x, jax.random.split(for_f, n)) if keyed else x, n, "gumbel_softmax")
    return refuse_never_drawn(terms, q, "gumbel_softmax")


def straight_through(f: Objective, q: Any, key: Array, n: int, *, temperature: ArrayLike | None = None) -> Array:
    """**Biased** gradient of an unbiased value: forward the sample, backward as if it were its relaxation.

        terms_i = f(x_i)   with   d x_i = d p                                     temperature=None
                                  d x_i = d softmax(z_i / temperature)            straight-through Gumbel-softmax

    where p are the probabilities, and z the noise that x is the sign (or largest entry) of. Needs an f that is
    differentiable at the values of `q`, which it gets as floats. For one bit the expected gradient with None is
    `(p f'(1) + (1 - p) f'(0)) dp` for `(f(1) - f(0)) dp`: right for linear f, and off by `(2 p - 1) f''/2` for quadratic
    ones, whatever the number of samples. It is the derivative of no expectation, so a second derivative raises.

    Args:
        temperature: > 0, or None.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        ValueError: `temperature <= 0`, `n < 1`, `q` with a batch shape, or f returns a vector.
        NotImplementedError: `q` has no relaxation; or, at trace time, a second derivative.

    Source: Bengio, Leonard and Courville 2013; with a temperature, Jang, Gu and Poole 2017 (section 2.2).
    """
    base, keyed = (q.base, True) if isinstance(q, WithKey) else (q, False)
    check_draw(base, n, "straight_through")
    check_temperature(temperature, "straight_through")
    how = relaxation(base, "straight_through")
    for_z, for_f = jax.random.split(key)
    z = how.sample(for_z, n)
    soft = how.soft(jnp.broadcast_to(how.logits, z.shape) if temperature is None else z / temperature)
    x = first_order(how.hard(z).astype(soft.dtype), [soft], [jnp.ones_like(soft)], "straight_through")
    terms = evaluate(f, (x, jax.random.split(for_f, n)) if keyed else x, n, "straight_through")
    return refuse_never_drawn(terms, q, "straight_through")


class OneHotCategorical(dist.Distribution):  # type: ignore[misc]
    """A Categorical whose samples are one-hot vectors, floats of shape `(K,)`.

    The relaxations are of this one: between two indices an f has no values, between two corners of the simplex it may.
    The same f, of a one-hot vector, then serves every estimator: `f = lambda x: jnp.dot(values, x)`.

    Args:
        logits: shape `(..., K)`, unnormalised; `jnp.log(p)` for probabilities.
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
        # 0 times -inf would be nan, for a class that is ruled out.
        log_p = jnp.maximum(jax.nn.log_softmax(self.logits), jnp.finfo(self.logits.dtype).min)
        return (value * log_p).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Array:
        (classes,) = self.event_shape
        values = jnp.eye(classes, dtype=self.logits.dtype).reshape(classes, *(1,) * len(self.batch_shape), classes)
        return jnp.broadcast_to(values, (classes, *self.batch_shape, classes)) if expand else values


class Logistic(NamedTuple):
    """A Bernoulli as the sign of `z = logits + logistic noise`. Shapes: those of an event, with n in front for samples."""

    logits: Array

    def sample(self, key: Array, n: int) -> Array:
        """z, live in the logits."""
        return self.logits + jax.random.logistic(key, (n, *self.logits.shape), self.logits.dtype)

    def hard(self, z: Array) -> Array:
        """The sample, as a constant."""
        return (z > 0).astype(int)

    def soft(self, z: Array) -> Array:
        return jax.nn.sigmoid(z)

    def given(self, b: Array, key: Array) -> Array:
        """z given `hard(z) = b`, live in the logits: where u > 1 - p (or not) is known, z is a map of one more uniform."""
        sign = jnp.where(b == 1, 1.0, -1.0).astype(self.logits.dtype)
        noise = jax.random.logistic(key, b.shape, self.logits.dtype)
        return sign * jax.nn.softplus(noise + jax.nn.softplus(sign * self.logits))


class Gumbels(NamedTuple):
    """A one-hot vector as the largest entry of `z = logits + Gumbel noise`; the logits are normalised."""

    logits: Array

    def sample(self, key: Array, n: int) -> Array:
        """z, live in the logits."""
        return self.logits + jax.random.gumbel(key, (n, *self.logits.shape), self.logits.dtype)

    def hard(self, z: Array) -> Array:
        """The sample, as a constant."""
        return jax.nn.one_hot(z.argmax(-1), z.shape[-1], dtype=z.dtype)

    def soft(self, z: Array) -> Array:
        return jax.nn.softmax(z)

    def given(self, b: Array, key: Array) -> Array:
        """z given `hard(z) = b`, live in the logits: the largest is Gumbel whichever it is, the others lie below it."""
        noise = jax.random.gumbel(key, b.shape, self.logits.dtype)
        largest = (b * noise).sum(-1, keepdims=True)
        return jnp.where(b == 1, largest, -jnp.logaddexp(-(self.logits + noise), -largest))


def relaxation(q: Any, caller: str) -> Logistic | Gumbels:
    """The continuous noise of which a sample of `q` is a threshold.

    Raises:
        NotImplementedError: there is none for `q`.
    """
    inner = elementary(q)
    if isinstance(inner, dist.BernoulliProbs | dist.BernoulliLogits):
        return Logistic(jnp.broadcast_to(inner.logits * 1.0, q.event_shape))
    if isinstance(inner, OneHotCategorical):
        return Gumbels(jnp.broadcast_to(jax.nn.log_softmax(inner.logits), q.event_shape))
    if isinstance(inner, dist.CategoricalProbs | dist.CategoricalLogits):
        raise NotImplementedError(
            f"{caller}: the samples of Categorical are indices, and f has no values between them; use "
            "OneHotCategorical(logits), whose samples are one-hot vectors, with an f of them"
        )
    from rgrad.estimators.which import those_for

    raise NotImplementedError(
        f"{caller} has no relaxation of {type(inner).__name__} (there are: Bernoulli, OneHotCategorical, vectors of them); use "
        f"{those_for(q)}"
    )


def check_temperature(temperature: ArrayLike | None, caller: str) -> None:
    """Raises where a temperature is known not to be positive."""
    if temperature is None or isinstance(temperature, jax.core.Tracer):
        return
    if jnp.shape(temperature) != () or not 0 < np.asarray(temperature) < np.inf:
        raise ValueError(f"{caller}: temperature = {temperature}; it must be one number > 0, as 0.5")
