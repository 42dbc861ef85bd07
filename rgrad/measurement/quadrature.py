"""Nodes and weights that replace the samples of a distribution: a sum over its values, or a rule in its noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from rgrad.distributions.base_noise import base_noise
from rgrad.distributions.implicit import implicit
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.triangular import lower
from rgrad.distributions.wrappers import SeenAs
from rgrad.errors import NotApplicable
from rgrad.estimators.enumerated import is_finite, support_of
from rgrad.measurement.noise_nodes import Axis, axes_of, place

MOST = 1600  # nodes: the estimator is evaluated at every pair of them
MOST_VALUES = 512
COUNTS = 4096  # the values of a count among which those with a probability are found
# By the number of noise variables: the step in s, and the smallest weight of a node relative to the largest. They differ
# between the two rules, so that rules for an integral that does not exist disagree.
SETTINGS = {1: ((0.05, 1e-30), (0.0824, 1e-22)), 2: ((0.24, 1e-14), (0.2967, 1e-12))}


class Rule(NamedTuple):
    """Nodes of shape `(K, ...)`, their weights, and the function that maps a node to a sample."""

    nodes: np.ndarray
    weights: np.ndarray
    place: Callable[[Any, Array], Array]


def rules_for(q: Any) -> list[Rule]:
    """Two rules that must agree, one rule that is exact, or no rule. For normals, and numbers with a finite support."""
    q = q.base if isinstance(q, SeenAs) else q
    if getattr(q, "event_shape", None) == () and getattr(q, "has_enumerate_support", False):
        try:
            support = q.enumerate_support()
        except NotImplementedError:  # countably infinite, e.g. a Poisson
            return []
        return [_sum_over(q, np.asarray(support))]
    inner = q.base_dist if type(q) is dist.Independent else q
    if type(q) is dist.MultivariateNormal:
        at = lambda q, eps: q.loc + lower(q).scale_tril @ eps
    elif type(inner) is dist.Normal:
        at = lambda q, eps: getattr(q, "base_dist", q).loc + getattr(q, "base_dist", q).scale * eps
    else:
        return []
    # With step h the error falls as exp(-(2 pi / h)^2 / 2). The coarser rule still integrates cos(30 x) in one
    # dimension, and polynomials of degree 12 in two. The steps have no common multiple, so no function is periodic in
    # both.
    settings = {1: ((12.0, 0.075), (12.0, 0.1236)), 2: ((7.6, 0.6), (7.6, 0.7416))}
    return [_of_normals(q.event_shape, at, *how) for how in settings.get(int(np.prod(q.event_shape)), ())]


def further_rules_for(q: Any) -> list[Rule]:
    """The same for all other distributions that have a rule."""
    q = q.base if isinstance(q, SeenAs) else q
    if is_finite(q):
        return _of_values(q)
    if getattr(q, "event_shape", None) == () and getattr(type(q), "support", None) is constraints.nonnegative_integer:
        return _of_counts(q)
    if not isinstance(q, dist.Distribution):
        return []
    if type(q) is dist.MixtureSameFamily:
        return _both(partial(_of_mixture, q), 1)
    source = base_noise(q).source
    axes = axes_of(source)
    return [] if axes is None else _both(partial(_of_noise, axes, source.shape()), len(axes))


def _both(make: Callable[[float, float], Rule | None], numbers: int) -> list[Rule]:
    """The fine and the coarse rule, if both exist."""
    made = [make(*how) for how in SETTINGS.get(numbers, ())]
    return [rule for rule in made if rule is not None] if all(rule is not None for rule in made) else []


def _itself(q: Any, node: Array) -> Array:
    return node


def _of_normals(event_shape: tuple[int, ...], at: Callable[[Any, Array], Array], end: float, step: float) -> Rule:
    """The trapezoidal rule for a standard normal."""
    axis = step * (np.arange(-int(end / step), int(end / step) + 1) + 0.382)
    weight = np.exp(-(axis**2) / 2) / np.exp(-(axis**2) / 2).sum()
    places = np.indices((len(axis),) * int(np.prod(event_shape)))
    places = places.reshape(len(places), -1)
    nodes, weights = axis[places].T, weight[places].prod(0)
    inside = np.sum(nodes**2, 1) <= (end + step) ** 2  # the corners have negligible weight
    return Rule(nodes[inside].reshape(-1, *event_shape), weights[inside], at)


# Discrete distributions


def _of_values(q: Any) -> list[Rule]:
    """A vector with a finite support."""
    try:
        values = support_of(q, MOST_VALUES)
    except NotApplicable:
        return []
    return [_sum_over(q, values)]


def _of_counts(q: Any) -> list[Rule]:
    """A count without an upper bound. Its rare values are left out: more of them in the second rule."""
    log_p = np.asarray(jax.vmap(partial(log_prob, q))(jnp.arange(COUNTS)))
    kept = [log_p > log_p.max() + np.log(keep) for _, keep in SETTINGS[1]]
    if kept[0][-1] or kept[0].sum() > MOST:
        return []
    p = np.exp(log_p - log_p.max())
    return [Rule(np.flatnonzero(some), p[some] / p[some].sum(), _itself) for some in kept]


def _sum_over(q: Any, values: np.ndarray) -> Rule:
    return Rule(values, np.exp(jax.vmap(partial(log_prob, q))(jnp.asarray(values))), _itself)


# Continuous distributions


def _of_noise(axes: Sequence[Axis], shape: tuple[int, ...], step: float, keep: float) -> Rule | None:
    """The product of the rules of all axes."""
    made = [axis(step, keep) for axis in axes]
    if any(one is None for one in made):
        return None
    each = [one for one in made if one]
    places = np.indices([len(w) for _, w in each]).reshape(len(each), -1)
    weights = np.prod([w[i] for (_, w), i in zip(each, places, strict=True)], 0)
    kept = weights > keep * weights.max()
    if kept.sum() > MOST:
        return None
    nodes = np.stack([x[i[kept]] for (x, _), i in zip(each, places, strict=True)], 1)
    return Rule(nodes.reshape(len(nodes), *shape, *nodes.shape[2:]), weights[kept], place)


def _of_mixture(q: Any, step: float, keep: float) -> Rule | None:
    """The nodes of all components, which move as the samples of the mixture do."""
    parts, shares = q.component_distribution, np.asarray(q.mixing_distribution.probs)
    source = base_noise(parts).source
    axes = axes_of(source)
    if axes is None or q.event_shape != () or source.shape() != shares.shape:
        return None
    made = [axis(step, keep) for axis in axes]
    if any(one is None for one in made):
        return None
    each = [one for one in made if one]
    longest = max(len(x) for x, _ in each)
    if longest * len(each) > MOST:
        return None
    e = np.stack([x[np.arange(longest) % len(x)] for x, _ in each], 1)
    weights = np.stack([np.pad(w, (0, longest - len(w))) for _, w in each], 1) * shares / shares.sum()
    x = np.asarray(jax.vmap(partial(place, parts))(jnp.asarray(e)))
    return Rule(x[weights > 0], weights[weights > 0], implicit)
