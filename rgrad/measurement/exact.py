"""Exact references: the mean and variance of a gradient estimate, by quadrature or enumeration, in 64 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.backend.compiling import right
from rgrad.distributions.draws import check_draw
from rgrad.distributions.log_density import Wrapper, log_prob
from rgrad.distributions.others import as_distribution
from rgrad.distributions.triangular import lower
from rgrad.distributions.wrappers import SeenAs, inside
from rgrad.errors import NotApplicable, Unsuitable
from rgrad.estimators.table import estimator_of, row_of
from rgrad.problems import OfProblem, check_objective, gradient, named, names_to_differentiate, point_of
from rgrad.protocols import Estimator, Params, Problem

TOLERANCE = 1e-6  # the largest difference allowed between two rules, relative to the variance


class ExactMoments(NamedTuple):
    """The exact moments of a gradient estimate. Each field maps a parameter's name to an array of its shape."""

    mean: dict[str, np.ndarray]
    """The mean of the estimate. If the estimator is unbiased, this is the gradient itself."""
    per_sample: dict[str, np.ndarray]
    """The coefficient of 1/n in the variance. For E[x^2] at N(2, 1): 87 (score function) and 4 (reparameterized)."""
    per_pair: dict[str, np.ndarray]
    """The coefficient of 1/(n (n-1)) in the variance. 0 if the terms are independent; not 0 for leave-one-out."""

    def variance(self, n: int) -> dict[str, np.ndarray]:
        """The variance of one call: `per_sample / n + per_pair / (n (n - 1))`. At n = 1, inf unless per_pair is 0."""
        pair = lambda x: x / (n * (n - 1)) if n > 1 else np.where(x == 0, 0.0, np.inf)
        return {name: self.per_sample[name] / n + pair(self.per_pair[name]) for name in self.mean}


def exact_moments(
    problem: Problem,
    estimator: Estimator | str,
    params: Params | None = None,
    wrt: Sequence[str] | None = None,
) -> ExactMoments | None:
    """The exact mean and variance of an estimator's gradient, for every n. None if they cannot be computed.

    The estimator itself is evaluated at every pair of nodes of a quadrature rule, so the result describes the code that
    runs. The estimate must be a U-statistic of order 2 (independent terms are; leave-one-out is) and a function of only
    the samples. Both conditions are checked. Let h be the estimate from two samples. Then

        Var = 4 zeta_1 / n + 2 (zeta_2 - 2 zeta_1) / (n (n-1)),   zeta_1 = Var E[h | x_1],   zeta_2 = Var h

    Two kinds of `q` are covered. Normal `q` (Normal, its `to_event`, MultivariateNormal) in one or two dimensions uses
    the trapezoidal rule, which converges exponentially for analytic functions. Scalar discrete `q` with a finite
    support uses enumeration. The result is None for any other `q`, if two quadrature rules disagree (a step function,
    tails that are too heavy), and if the estimate does not satisfy the conditions above. Quadrature may miss features
    that are narrower than the distance between nodes (0.075 standard deviations, or 0.6 in two dimensions).

    Args:
        problem: has `distribution(params)`, `objective(params, x)` and `params` (`rgrad.Problem`).
        estimator: a function, or a name of `rgrad.ESTIMATORS`.
        params: the point: by name, or in the structure of the problem's own. Missing parameters keep the problem's values.
        wrt: the names of the parameters to differentiate. By default the problem's own `wrt`, or every parameter.

    Raises:
        TypeError: `problem` or `estimator` has the wrong type.
        ValueError: an unknown name of a parameter or estimator, an integer to differentiate, or a value that is not finite.

    Source: Hoeffding 1948, https://doi.org/10.1214/aoms/1177730196; the trapezoidal rule: Trefethen and Weideman 2014,
    https://doi.org/10.1137/130932132.
    """
    problem, estimator = named(problem, "exact_moments"), estimator_of(estimator, "exact_moments")
    # Everything here is in 64 bits, whatever precision the caller uses.
    with jax.enable_x64(True):
        point = point_of(problem, params, "exact_moments")
        names = names_to_differentiate(problem, point, wrt, "exact_moments")
        q = as_distribution(problem.distribution(point), "exact_moments")
        check_draw(q, 2, "exact_moments")
        rules = rules_for(q)
        if not rules:
            return None
        check_objective(problem, point)

        def estimate(nodes: Any, key: Array) -> dict[str, Array]:
            at_nodes = problem_at_nodes(problem, rules[0], nodes)
            return gradient(at_nodes, point, names, key, len(nodes), estimator)

        try:
            return _moments(estimate, rules)
        except NotApplicable:
            return None
        except (TypeError, ValueError, NotImplementedError):
            if row_of(estimator) is not None:
                raise
            return None  # a user's estimator, which does not accept 2 or 5 samples. The objective has been checked


class Rule(NamedTuple):
    """Nodes of shape `(K, ...)` in standard noise, their weights, and the function that maps a node to a sample."""

    nodes: np.ndarray
    weights: np.ndarray
    place: Callable[[Any, Array], Array]


class AtNodes(Wrapper):
    """`q` with the given nodes as its samples. With nodes in place of random samples, expectations are exact."""

    batch_shape = ()

    def __init__(self, base: Any, place: Callable[[Any, Array], Array], nodes: Array):
        self.base, self._place, self._nodes = base, place, nodes
        self.has_rsample, self._used = base.has_rsample, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)  # its parameters, for an estimator that reads them

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        if shape != (len(self._nodes),) or self._used:
            raise Unsuitable("exact_moments: the estimator must draw exactly n samples, once")
        self._used = True
        return jax.vmap(partial(self._place, self.base))(self._nodes)

    rsample = sample


def problem_at_nodes(problem: Problem, rule: Rule, nodes: Array) -> OfProblem:
    """The problem with the given nodes as its samples."""
    of = lambda q: inside(as_distribution(q, "exact_moments"), lambda q: AtNodes(q, rule.place, nodes))
    return OfProblem(lambda p: of(problem.distribution(p)), problem.objective, {})


def rules_for(q: Any) -> list[Rule]:
    """Two rules that must agree, one rule that is exact, or no rule."""
    q = q.base if isinstance(q, SeenAs) else q
    import numpyro.distributions as dist  # imported here because the import is as slow as the rest of rgrad

    if q.event_shape == () and getattr(q, "has_enumerate_support", False):
        try:
            support = q.enumerate_support()
        except NotImplementedError:  # countably infinite, e.g. a Poisson
            return []
        return [Rule(np.asarray(support), np.exp(jax.vmap(partial(log_prob, q))(support)), lambda q, node: node)]
    inner = q.base_dist if type(q) is dist.Independent else q
    if type(q) is dist.MultivariateNormal:
        place = lambda q, eps: q.loc + lower(q).scale_tril @ eps
    elif type(inner) is dist.Normal:
        place = lambda q, eps: getattr(q, "base_dist", q).loc + getattr(q, "base_dist", q).scale * eps
    else:
        return []
    # With step h the error falls as exp(-(2 pi / h)^2 / 2). The coarser rule still integrates cos(30 x) in one
    # dimension, and polynomials of degree 12 in two. The steps have no common multiple, so no function is periodic in
    # both.
    settings = {1: ((12.0, 0.075), (12.0, 0.1236)), 2: ((7.6, 0.6), (7.6, 0.7416))}
    return [_trapezoid(q.event_shape, place, *how) for how in settings.get(int(np.prod(q.event_shape)), ())]


def _trapezoid(event_shape: tuple[int, ...], place: Callable[[Any, Array], Array], end: float, step: float) -> Rule:
    """The trapezoidal rule for a standard normal."""
    axis = step * (np.arange(-int(end / step), int(end / step) + 1) + 0.382)
    weight = np.exp(-(axis**2) / 2) / np.exp(-(axis**2) / 2).sum()
    places = np.indices((len(axis),) * int(np.prod(event_shape)))
    places = places.reshape(len(places), -1)
    nodes, weights = axis[places].T, weight[places].prod(0)
    inside = np.sum(nodes**2, 1) <= (end + step) ** 2  # the corners have negligible weight
    return Rule(nodes[inside].reshape(-1, *event_shape), weights[inside], place)


def _moments(estimate: Callable[[Any, Array], dict[str, Array]], rules: list[Rule]) -> ExactMoments | None:
    if not _is_pairwise(estimate, rules[0]):
        return None
    fine, coarse = _by_rule(estimate, rules[0]), _by_rule(estimate, rules[-1])
    for name, mean in fine.mean.items():
        variance = fine.per_sample[name] + np.abs(fine.per_pair[name])
        if not (
            np.all(np.abs(coarse.mean[name] - mean) <= TOLERANCE * (np.abs(mean) + np.sqrt(variance)))
            and np.all(np.abs(coarse.per_sample[name] - fine.per_sample[name]) <= TOLERANCE * variance)
            and np.all(np.abs(coarse.per_pair[name] - fine.per_pair[name]) <= TOLERANCE * variance)
        ):
            return None
    return fine


def _by_rule(estimate: Callable[[Any, Array], dict[str, Array]], rule: Rule) -> ExactMoments:
    """The moments by Hoeffding's decomposition of the estimate h from two samples, with expectations by the rule."""
    nodes, w, key = jnp.asarray(rule.nodes), jnp.asarray(rule.weights), jax.random.key(0)

    @partial(jax.jit, compiler_options=right())
    def moments() -> tuple[Any, Any, Any, Any]:
        # Subtract the estimate in the middle. Otherwise a small variance would drown in the rounding error of a large
        # mean.
        middle = estimate(jnp.stack([nodes[jnp.argmax(w)]] * 2), key)

        def given_first(first: Array) -> tuple[Any, Any]:
            h = jax.vmap(lambda second: estimate(jnp.stack([first, second]), key))(nodes)
            h = jax.tree.map(lambda x, m: x - m, h, middle)
            return jax.tree.map(lambda x: jnp.tensordot(w, x, 1), h), jax.tree.map(
                lambda x: jnp.tensordot(w, x**2, 1), h
            )

        expect = lambda tree: jax.tree.map(lambda x: jnp.tensordot(w, x, 1), tree)
        given, square = jax.lax.map(given_first, nodes)  # E[h | x_1], E[h^2 | x_1]
        mean = expect(given)
        zeta_1 = expect(jax.tree.map(lambda x, m: (x - m) ** 2, given, mean))
        return middle, mean, zeta_1, jax.tree.map(lambda x, m: x - m**2, expect(square), mean)

    found = jax.tree.map(np.asarray, moments())
    mean, per_sample, per_pair = {}, {}, {}
    for name, middle, off, zeta_1, zeta_2 in ((name, *(part[name] for part in found)) for name in found[0]):
        rounding = 1e-28 * (middle**2 + off**2)
        m, s, p = middle + off, 4 * zeta_1, 2 * (zeta_2 - 2 * zeta_1)
        mean[name] = np.where(m**2 <= 1e-24 * np.abs(zeta_2), 0.0, m)
        per_sample[name] = np.where(s <= rounding, 0.0, s)
        per_pair[name] = np.where(np.abs(p) <= rounding + 1e-10 * zeta_1, 0.0, p)
    return ExactMoments(mean, per_sample, per_pair)


def _is_pairwise(estimate: Callable[[Any, Array], dict[str, Array]], rule: Rule) -> bool:
    """Whether the estimate from five samples is the mean of those from all pairs, and a function of only the samples.

    Three samples would not be enough: the median of the other two is their mean, so a median baseline would pass.
    """
    nodes = jnp.asarray(rule.nodes)
    fives = nodes[np.random.default_rng(0).choice(len(nodes), (8, 5), p=rule.weights)]
    pairs = jnp.array([(i, j) if (i + j) % 2 else (j, i) for j in range(5) for i in range(j)])

    @partial(jax.jit, compiler_options=right())
    @jax.vmap
    def compare(x: Array, number: Array) -> tuple[Any, Any]:
        whole = estimate(x, jax.random.key(number))
        two = jax.vmap(lambda pair: estimate(x[pair], jax.random.key(number + 100)))(pairs)
        gap = jax.tree.map(lambda a, b: jnp.abs(a - b.mean(0)).max(), whole, two)
        return gap, jax.tree.map(lambda b: jnp.abs(b).max(), two)

    gap, size = compare(fives, jnp.arange(len(fives)))
    return all(gap[name].max() <= 1e-9 * size[name].max() for name in gap)
