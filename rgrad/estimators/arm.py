"""Antithetic pairs of samples for Bernoulli variables: ARM, and DisARM, which integrates out ARM's noise."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.autodiff import attach_gradient
from rgrad.backend.noise import is_ours, split, uniform
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.wrappers import elementary, name_of
from rgrad.errors import NoRule
from rgrad.protocols import Distribution, Objective


def arm(f: Objective, q: Distribution, key: Array, n: int) -> Array:
    """Augment-REINFORCE-merge (ARM): two evaluations of f at opposite noise, for any number of Bernoulli variables.

    With logits a, u uniform on (0, 1), `b = 1[1 - u < sigmoid(a)]` and its opposite `b' = 1[u < sigmoid(a)]`:

        terms_i = attach_gradient((f(b_i) + f(b'_i)) / 2, a, (f(b_i) - f(b'_i)) (u_i - 1/2))

    `q` is a Bernoulli, by probs or logits, or a vector of them (`to_event`). The gradient reaches any parameter through
    `q.logits`. f may be any function. Each term is a pair of samples that share their noise, so
    **one call costs 2 n evaluations of f**. Pass `q` itself, not `antithetic(q)`: the pairs are made here. With
    `keyed=True` both samples of a pair get the same key.

    Unbiased, to first order only: a second derivative raises.

    Returns:
        Shape `(n,)`, per pair. The pairs are independent.

    Raises:
        NotImplementedError: `q` is not a Bernoulli; or, at trace time, a second derivative is taken.
        ValueError: `n < 1`, `q` has a batch shape, or f returns a vector.

    Example:
        >>> f = lambda x: (x - 0.3) ** 2
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, rgrad.arm)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.2f}")  # the truth is 0.1
        0.10

    Source: Yin and Zhou 2019, ARM: Augment-REINFORCE-merge gradient for stochastic binary networks (theorem 1),
    https://arxiv.org/abs/1807.11143.
    """
    logits, u, b, opposite, values_at = _antithetic(f, q, key, n, "arm")
    plus, minus = values_at(b), values_at(opposite)
    gradient = _column(plus - minus, u) * (u - 0.5)
    terms = attach_gradient((plus + minus) / 2, {"logits": logits}, {"logits": gradient}, "arm")
    return refuse_never_drawn(terms, q, "arm")


def disarm(f: Objective, q: Distribution, key: Array, n: int) -> Array:
    """DisARM: the expectation of the ARM gradient given the pair of samples. Its variance is never larger than ARM's.

        terms_i = attach_gradient((f(b_i) + f(b'_i)) / 2, a, (f(b_i) - f(b'_i)) (b_i - b'_i) sigmoid(|a|) / 2)

    The notation, the requirements and the cost are those of `arm`: **one call costs 2 n evaluations of f**. Also known
    as U2G. Unbiased, to first order only: a second derivative raises.

    Returns:
        Shape `(n,)`, per pair. The pairs are independent.

    Raises:
        NotImplementedError: `q` is not a Bernoulli; or, at trace time, a second derivative is taken.
        ValueError: `n < 1`, `q` has a batch shape, or f returns a vector.

    Example:
        >>> f = lambda x: (x - 0.3) ** 2
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1000, rgrad.disarm)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.3f}")  # exact for one bit with p = 1/2
        0.100

    Source: Dong, Mnih and Tucker 2020, DisARM: an antithetic gradient estimator for binary latent variables (section
    3), https://arxiv.org/abs/2006.10680; U2G: Yin et al. 2020, Probabilistic best subset selection via gradient-based
    optimization, https://arxiv.org/abs/2006.06448.
    """
    logits, _, b, opposite, values_at = _antithetic(f, q, key, n, "disarm")
    plus, minus = values_at(b), values_at(opposite)
    gradient = _column(plus - minus, b) * (b - opposite).astype(logits.dtype) * jax.nn.sigmoid(jnp.abs(logits)) / 2
    terms = attach_gradient((plus + minus) / 2, {"logits": logits}, {"logits": gradient}, "disarm")
    return refuse_never_drawn(terms, q, "disarm")


def _antithetic(f: Objective, q: Any, key: Array, n: int, caller: str) -> tuple[Array, Array, Array, Array, Any]:
    """The logits, shape `event_shape`; u, b and the opposite of b, each `(n, *event_shape)`; and f of such samples."""
    base = base_of(q)
    check_draw(base, n, caller)
    inner = elementary(base)
    if not isinstance(inner, dist.BernoulliProbs | dist.BernoulliLogits):
        raise NoRule(f"{caller}: q must be a Bernoulli or a vector of them, got {name_of(inner)}")
    logits = jnp.broadcast_to(inner.logits * 1.0, base.event_shape)  # a float, even if it was given as the integer 0
    for_u, for_f = split(key)
    u = _symmetric(for_u, (n, *logits.shape), logits.dtype)
    p = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    b, opposite = (1 - u < p).astype(int), (u < p).astype(int)
    return logits, u, b, opposite, lambda x: evaluate(f, with_keys(q, x, for_f), n, caller)


def _symmetric(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniforms that are symmetric about 1/2: 1 - u is exact, and has the same distribution."""
    if is_ours(key, math.prod(shape), dtype):
        return uniform(key, shape, dtype)
    return jax.random.uniform(key, shape, dtype) + jnp.finfo(dtype).eps / 2


def _column(values: Array, like: Array) -> Array:
    """Reshapes `(n,)` to `(n, 1, ...)`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))
