"""Exact references: the mean and the variance of a gradient estimate, by quadrature or enumeration, in 64 bits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.problems import gradient, names_to_differentiate, point_of
from rgrad.protocols import Estimator, Objective, Problem

TOLERANCE = 1e-6  # how far the rule and the rule of every second node may differ, relative to the estimate's spread


class ExactMoments(NamedTuple):
    """The exact moments of a gradient estimate; each a mapping from the parameter's name to an array of its shape."""

    mean: dict[str, np.ndarray]
    """Of the estimate: the gradient itself, where the estimator is unbiased."""
    per_sample: dict[str, np.ndarray]
    """What the variance is to 1/n, per sample: 87 and 4 for the post's problem."""
    per_pair: dict[str, np.ndarray]
    """What the variance is, beyond that, to 1/(n (n-1)): zero where samples are independent, not for leave-one-out."""

    def variance(self, n: int) -> dict[str, np.ndarray]:
        """The variance of one call of n samples: `per_sample / n + per_pair / (n (n - 1))`; inf where n = 1 has none."""
        pair = lambda x: x / (n * (n - 1)) if n > 1 else np.where(x == 0, 0.0, np.inf)
        return {name: self.per_sample[name] / n + pair(self.per_pair[name]) for name in self.mean}


def exact_moments(
    problem: Problem,
    estimator: Estimator,
    params: Mapping[str, ArrayLike] | None = None,
    wrt: Sequence[str] | None = None,
) -> ExactMoments | None:
    """The exact mean and variance of an estimator's gradient, for every n; None where they cannot be had.

    The estimate is computed for every pair of nodes of a quadrature rule, by the estimator itself: what is exact is the
    very code that runs. It must be a U-statistic of order 2 (independent terms are; leave-one-out is), and a function of
    the samples alone; both are checked. Then, with h the estimate from two samples (Hoeffding 1948),

        Var = 4 zeta_1 / n + 2 (zeta_2 - 2 zeta_1) / (n (n-1)),   zeta_1 = Var E[h | x_1],   zeta_2 = Var h

    Covers normal `q` (Normal, its `to_event`, MultivariateNormal) in one or two dimensions, by the trapezoidal rule,
    which converges exponentially for analytic functions (Trefethen and Weideman 2014); and scalar discrete `q` of finite
    support, by enumeration. None is returned for another `q`; where halving the nodes moves the result (a step function,
    tails that are too heavy); and where the estimator is none of the above.

    Args:
        problem: has `distribution(params)`, `objective(params, x)` and `params`.
        params: the point; by default the problem's own, and so for each name that is absent.
        wrt: the names of the parameters to differentiate; by default the problem's own `wrt`, or every one.

    Raises:
        ValueError: an unknown name, an integer to differentiate, or a value that is not finite.
    """
    # Everything here is in 64 bits, whatever the caller's own width is.
    with jax.enable_x64(True):
        point = point_of(problem, params)
        names = names_to_differentiate(problem, point, wrt)
        rule = _rule_for(problem.distribution(point))
        if rule is None:
            return None

        def estimate(nodes: Any, key: Array) -> dict[str, Array]:
            at_nodes = _OfProblem(lambda p: AtNodes(problem.distribution(p), rule.place, nodes), problem.objective, {})
            return gradient(at_nodes, point, names, key, len(nodes), estimator)

        try:
            return _moments(estimate, rule)
        except (
            AttributeError,
            NotImplementedError,
            TypeError,
            ValueError,
        ):  # this estimator cannot be asked for such a `q`, or for n = 3
            return None


class _OfProblem(NamedTuple):
    distribution: Callable[[Any], Any]
    objective: Objective
    params: dict[str, Any]


class Rule(NamedTuple):
    """Nodes of shape `(K, ...)` in standard noise, their weights, the places of a coarser rule, and how to place them."""

    nodes: np.ndarray
    weights: np.ndarray
    coarse: np.ndarray | None
    place: Callable[[Any, Array], Array]


class AtNodes:
    """`q`, whose samples are what the nodes say: the other source of noise that makes an expectation exact."""

    batch_shape = ()

    def __init__(self, base: Any, place: Callable[[Any, Array], Array], nodes: Array):
        self.base_dist, self._place, self._nodes = base, place, nodes
        self.has_rsample = base.has_rsample

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base_dist, name)  # its parameters, for an estimator that reads them

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        if shape != (len(self._nodes),):
            raise ValueError(
                f"exact_moments: samples of shape {shape} were asked for, and there are {len(self._nodes)}"
            )
        return jax.vmap(partial(self._place, self.base_dist))(self._nodes)

    rsample = sample


def _rule_for(q: Any) -> Rule | None:
    import numpyro.distributions as dist  # here, because it takes as long to import as the rest of rgrad

    if q.batch_shape == () and q.event_shape == () and getattr(q, "has_enumerate_support", False):
        try:
            support = q.enumerate_support()
        except NotImplementedError:  # countable, as a Poisson's
            return None
        return Rule(np.asarray(support), np.exp(jax.vmap(q.log_prob)(support)), None, lambda q, node: node)
    if isinstance(q, dist.MultivariateNormal):
        return _trapezoid(q.event_shape, lambda q, eps: q.loc + q.scale_tril @ eps)
    inner = q.base_dist if isinstance(q, dist.Independent) else q
    if isinstance(inner, dist.Normal):
        return _trapezoid(q.event_shape, lambda q, eps: _inner(q).loc + _inner(q).scale * eps)
    return None


def _inner(q: Any) -> Any:
    return getattr(q, "base_dist", q)


def _trapezoid(event_shape: tuple[int, ...], place: Callable[[Any, Array], Array]) -> Rule | None:
    """The trapezoidal rule for a standard normal; every second node of it is the coarser rule."""
    size = int(np.prod(event_shape))
    if size > 2:
        return None
    # With step h the error falls as
    # exp(-(2 pi / h)^2 / 2): the coarser rule still does cos(30 x) in one dimension, and degree 12 in two.
    half, end = (160, 12.0) if size == 1 else (19, 7.6)
    axis = np.linspace(-end, end, 2 * half + 1)
    weight = np.exp(-(axis**2) / 2) / np.exp(-(axis**2) / 2).sum()
    places = np.indices((len(axis),) * size).reshape(size, -1)
    nodes, weights, coarse = axis[places].T, weight[places].prod(0), (places % 2 == 0).all(0)
    inside = np.sum(nodes**2, 1) <= end**2  # the corners weigh nothing
    return Rule(nodes[inside].reshape(-1, *event_shape), weights[inside], coarse[inside], place)


def _moments(estimate: Callable[[Any, Array], dict[str, Array]], rule: Rule) -> ExactMoments | None:
    if not _is_pairwise(estimate, rule):
        return None
    nodes, key = jnp.asarray(rule.nodes), jax.random.key(0)
    weights = [rule.weights]
    if rule.coarse is not None:
        weights.append(np.where(rule.coarse, rule.weights, 0.0) / rule.weights[rule.coarse].sum())
    w = jnp.asarray(weights)  # (rules, K)

    def given_first(first: Array) -> dict[str, tuple[Array, Array]]:
        h = jax.vmap(lambda second: estimate(jnp.stack([first, second]), key))(nodes)
        return {name: (jnp.tensordot(w, x, 1), jnp.tensordot(w, x**2, 1)) for name, x in h.items()}

    found = jax.jit(lambda: jax.lax.map(given_first, nodes))()
    parts: list[dict[str, np.ndarray]] = [{}, {}, {}]
    for name, (h, square) in found.items():  # E[h | x_1] and E[h^2 | x_1], shape (K, rules, ...)
        results = [_hoeffding(np.asarray(h)[:, i], np.asarray(square)[:, i], v) for i, v in enumerate(weights)]
        mean, *variances = results[0]
        size = mean**2 + variances[0] + np.abs(variances[1])
        for fine, coarse, power in zip(results[0], results[-1], (2, 1, 1), strict=True):
            if not np.all(np.abs(coarse - fine) ** power <= TOLERANCE * size):
                return None
        for part, value in zip(parts, results[0], strict=True):
            part[name] = value
    return ExactMoments(*parts)


def _hoeffding(h: np.ndarray, square: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of the estimate from two samples, and the parts of its variance per sample and per pair."""
    mean = np.tensordot(w, h, 1)
    zeta_1 = np.tensordot(w, (h - mean) ** 2, 1)
    zeta_2 = np.tensordot(w, square, 1) - mean**2
    zero = 1e-10 * (mean**2 + zeta_1 + np.abs(zeta_2))  # what rounding leaves
    per_sample, per_pair = 4 * zeta_1, 2 * (zeta_2 - 2 * zeta_1)
    mean = np.where(mean**2 <= 1e-20 * np.abs(zeta_2), 0.0, mean)
    return mean, np.where(per_sample <= zero, 0.0, per_sample), np.where(np.abs(per_pair) <= zero, 0.0, per_pair)


def _is_pairwise(estimate: Callable[[Any, Array], dict[str, Array]], rule: Rule) -> bool:
    """Whether the estimate from three samples is the mean of those from each two, and from the samples alone."""
    nodes = jnp.asarray(rule.nodes)
    triples = nodes[np.random.default_rng(0).choice(len(nodes), (4, 3), p=rule.weights)]

    @jax.jit
    @jax.vmap
    def compare(x: Array, number: Array) -> tuple[Any, Any]:
        whole = estimate(x, jax.random.key(number))
        two = jax.vmap(lambda pair: estimate(x[pair], jax.random.key(number + 100)))(
            jnp.array([[0, 1], [0, 2], [2, 1]])
        )
        gap = jax.tree.map(lambda a, b: jnp.abs(a - b.mean(0)).max(), whole, two)
        return gap, jax.tree.map(lambda b: jnp.abs(b).max(), two)

    gap, size = compare(triples, jnp.arange(len(triples)))
    return all(np.all(gap[name] <= 1e-8 * size[name] + 1e-12) for name in gap)
