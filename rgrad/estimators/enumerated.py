"""The exact expectation over a finite support: every value, weighted by its probability."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations_with_replacement
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from rgrad.backend.noise import split
from rgrad.distributions.cdfs import MIXTURES, components
from rgrad.distributions.counts import of_counts
from rgrad.distributions.dependent import DependentDraws
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.probabilities import probability
from rgrad.distributions.wrappers import JaxRandom, elementary, name_of
from rgrad.errors import NoRule, Unsuitable
from rgrad.protocols import Distribution, Objective


def enumerated(f: Objective, q: Distribution, key: Array, n: int, *, limit: int = 2**16) -> Array:
    """The exact expectation, without sampling: `E_q[f(x)] = sum_x q(x) f(x)` over the whole support.

        terms_i = sum_x q(x) f(x)

    Needs a finite support: Bernoulli, Categorical, Binomial, Multinomial, ..., or a vector of them (`to_event`).
    The support of a vector is the product of the supports: K^D points for D coordinates. Any other `q` needs
    `enumerate_support()`, which returns shape `(K, *event_shape)`. f may be any function.

    The value and the derivatives of every order are exact, and the variance is 0. The sum is computed once, with one
    evaluation of f for each point. If f has randomness of its own (`keyed=True`), it is computed separately for each of
    the n terms: n evaluations for each point.

    Args:
        limit: the largest support to enumerate. Memory grows with it.

    Returns:
        Shape `(n,)`. All terms are equal (with `keyed=True`: independent).

    Raises:
        ValueError: the support has more than `limit` points, or its size is traced; `n < 1`, `q` has a batch shape, or
            f returns a vector.
        NotImplementedError: the support is not finite (Poisson, Geometric, Normal), or cannot be listed.

    Example:
        >>> f = lambda x: (x - 0.3) ** 2
        >>> loss = lambda logit: rgrad.expect(f, dist.Bernoulli(logits=logit), key, 1, rgrad.enumerated)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.3f}")  # exact: p (1 - p) (f(1) - f(0))
        0.100

    Source: Titsias and Lazaro-Gredilla 2015, Local expectation gradients (eq. 8), https://arxiv.org/abs/1503.01494.
    They apply it to one of several variables.
    """
    base = base_of(q)
    check_draw(base, n, "enumerated")
    points = support_of(base, limit)
    x = jnp.asarray(points)
    p = jax.vmap(partial(probability, base))(x)
    largest = np.abs(points).max() if np.issubdtype(points.dtype, np.integer) else 0.0
    f = of_counts(f, q, "enumerated", largest)

    def total(points: Any) -> Array:
        values = evaluate(f, points, len(x), "enumerated")
        # At a value of probability 0, f may be infinite, e.g. in 0 log 0. If f is finite there, it contributes to the
        # derivative.
        return (p * jnp.where((p > 0) | jnp.isfinite(values), values, 0.0)).sum()

    if base is q:
        return jnp.broadcast_to(total(x), (n,))
    return jax.vmap(lambda k: total(with_keys(q, x, k)))(split(key, n))


def support_of(q: Any, limit: int = 2**16, caller: str = "enumerated") -> np.ndarray:
    """Every value of `q`, shape `(K, *event_shape)`: the product of the supports of its independent coordinates."""
    inner = q
    while isinstance(inner, dist.Independent | JaxRandom | DependentDraws):
        inner = inner.base_dist
    batch = getattr(inner, "batch_shape", ())
    values = _values(inner, math.prod(batch), limit, caller)
    if not values:  # an empty vector has one value
        return np.zeros((1, *batch, *inner.event_shape))
    sizes = [len(v) for v in values]
    if math.prod(sizes) > limit:
        raise _too_many(q, _product(sizes), limit, caller)
    places = np.indices(sizes).reshape(len(sizes), -1)
    points = np.stack([v[i] for v, i in zip(values, places, strict=True)], axis=1)
    return points.reshape(-1, *batch, *values[0].shape[1:])


def _product(sizes: list[int]) -> str:
    same = len(sizes) > 1 and len(set(sizes)) == 1
    return f"{sizes[0]}^{len(sizes)} = {math.prod(sizes):,}" if same else f"{math.prod(sizes):,}"


COUNTS_OF_CLASSES = (dist.MultinomialProbs, dist.MultinomialLogits, dist.DirichletMultinomial)
"""Their values are the ways to divide a count among classes, which NumPyro does not list."""


def is_finite(q: Any) -> bool:
    """Whether `support_of` has a rule for `q`, as far as its type tells."""
    one = elementary(q)
    if isinstance(one, MIXTURES):
        return one.event_shape == () and all(map(is_finite, components(one)))
    return bool(getattr(one, "has_enumerate_support", False)) or isinstance(one, COUNTS_OF_CLASSES)


def _compositions(q: Any, limit: int, caller: str) -> list[np.ndarray]:
    """For each element of the batch, every way to divide its count among the classes."""
    count, (classes,) = elementary(q).total_count, q.event_shape
    if isinstance(count, jax.core.Tracer):
        raise _traced(q, caller)
    counts = np.broadcast_to(np.asarray(count), q.batch_shape).ravel().tolist()
    if (most := math.comb(max(counts, default=0) + classes - 1, classes - 1)) > limit:
        raise _too_many(q, f"{most:,}", limit, caller)
    ways = {n: [*combinations_with_replacement(range(classes), n)] for n in set(counts)}
    return [np.array([np.bincount(np.array(way, int), minlength=classes) for way in ways[n]]) for n in counts]


def _traced(q: Any, caller: str) -> Unsuitable:
    return Unsuitable(
        f"{caller}: the number of values of {name_of(q)} is traced (its total_count is an argument of jit, "
        "vmap or grad); make it a Python int"
    )


def _too_many(q: Any, points: str, limit: int, caller: str) -> Unsuitable:
    return Unsuitable(
        f"{caller}: the support of {name_of(q)} has {points} points, more than limit={limit}; use "
        "score_function with leave_one_out, enumerate only some of the variables (nest expectations with "
        "keyed=True), or raise the limit"
    )


def _values(q: Any, coordinates: int, limit: int, caller: str) -> list[np.ndarray]:
    """The values of each coordinate of a batch. Integers come from the bounds, which may differ between coordinates."""
    none = NoRule(f"{caller} needs a finite support that it can list, and {name_of(q)} has none")
    if isinstance(elementary(q), MIXTURES) and is_finite(q):  # its own support is that of one component
        of_parts = [
            x for part in components(elementary(q)) for x in _values(part, math.prod(part.batch_shape), limit, caller)
        ]
        if any(not np.array_equal(x, of_parts[0]) for x in of_parts):
            raise none  # a density outside the support of a component would be needed
        return [of_parts[0]] * coordinates
    support: Any = getattr(q, "support", None)
    if getattr(support, "is_discrete", False) and hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        bounds = (support.lower_bound, support.upper_bound)
        if any(isinstance(bound, jax.core.Tracer) for bound in bounds):
            raise _traced(q, caller)
        low, high = (np.broadcast_to(bound, q.batch_shape).ravel() for bound in bounds)
        return [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    if isinstance(elementary(q), COUNTS_OF_CLASSES):
        return _compositions(q, limit, caller)
    if not hasattr(q, "enumerate_support"):
        raise none
    # NumPyro cannot list an expanded distribution of vectors. All its coordinates have the same values.
    listed = q.base_dist if isinstance(q, dist.ExpandedDistribution) and q.event_shape else q
    try:
        with jax.ensure_compile_time_eval():
            each = np.asarray(listed.enumerate_support())
    except NotImplementedError:  # raised by NumPyro
        raise none from None
    event = getattr(q, "event_shape", each.shape[1:])
    if listed is not q:
        return [each.reshape(len(each), -1, *event)[:, 0]] * coordinates
    each = each.reshape(len(each), coordinates, *event)
    return [each[:, i] for i in range(coordinates)]
