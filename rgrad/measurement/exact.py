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
from rgrad.distributions.implicit import has_rsample
from rgrad.distributions.log_density import Wrapper
from rgrad.distributions.others import as_distribution
from rgrad.distributions.wrappers import inside
from rgrad.errors import NotApplicable, Unsuitable
from rgrad.estimators.table import estimator_of, row_of
from rgrad.measurement.quadrature import Rule, further_rules_for, rules_for
from rgrad.problems import OfProblem, check_objective, gradient, named, names_to_differentiate, point_of
from rgrad.protocols import Estimator, Params, Problem

TOLERANCE = 1e-6  # the largest difference allowed between two rules, relative to the variance


class ExactMoments(NamedTuple):
    """The exact moments of a gradient estimate. Each field maps a parameter's name to an array of its shape.

    Example:
        >>> class problem:  # E[x^2], x ~ N(loc, 1)
        ...     params = {"loc": 2.0}
        ...     distribution = lambda params: dist.Normal(params["loc"], 1.0)
        ...     objective = lambda params, x: x**2
        >>> exact = rgrad.exact_moments(problem, "score_function")
        >>> print(f"{exact.per_sample['loc']:.2f}")  # the variance is 87/n
        87.00
    """

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

    These `q` are covered, also as distributions of TFP, distrax, distreqx and FlowJAX:

    - A finite support of at most 512 values, by enumeration: scalars, OneHotCategorical, Multinomial, vectors of bits.
      Poisson, Geometric and NegativeBinomial, whose values with a probability below 1e-30 are left out.
    - One or two numbers of noise, by the trapezoidal rule, which converges exponentially for analytic functions:
      Normal, MultivariateNormal, Laplace, Logistic, Gumbel, Cauchy, StudentT, Exponential, Uniform, Gamma, Chi2, Beta,
      Dirichlet, HalfNormal, HalfCauchy, Weibull, Kumaraswamy, VonMises, images of these under transforms (LogNormal,
      InverseGamma, Pareto), vectors of two of them, and mixtures of scalars (MixtureSameFamily).

    The result is None for any other `q`, if the estimator does not apply, if two quadrature rules disagree (a step
    function, tails that are too heavy), and if the estimate does not satisfy the conditions above. Quadrature may miss
    features that are narrower than the distance between nodes (for a Normal 0.075 standard deviations, or 0.6 in two
    dimensions).

    Args:
        problem: has `distribution(params)`, `objective(params, x)` and `params` (`rgrad.Problem`).
        estimator: a function, or a name of `rgrad.ESTIMATORS`.
        params: the point: by name, or in the structure of the problem's own. Missing parameters keep the problem's values.
        wrt: the names of the parameters to differentiate. By default the problem's own `wrt`, or every parameter.

    Raises:
        TypeError: `problem` or `estimator` has the wrong type.
        ValueError: an unknown name of a parameter or estimator, an integer to differentiate, or a value that is not finite.
        Both: what `rgrad.expect` raises for the distribution, the objective and the estimator, if it is not NotApplicable.

    Example:
        >>> class problem:  # E[x^2], x ~ N(loc, 1)
        ...     params = {"loc": 2.0}
        ...     distribution = lambda params: dist.Normal(params["loc"], 1.0)
        ...     objective = lambda params, x: x**2
        >>> exact = rgrad.exact_moments(problem, "score_function")
        >>> print(f"{exact.mean['loc']:.2f} {exact.variance(n=100)['loc']:.4f}")
        4.00 0.8700

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
        check_objective(problem, point, "exact_moments")
        rules = rules_for(q) or further_rules_for(q)

        def estimate(nodes: Any, key: Array) -> dict[str, Array]:
            at_nodes = problem_at_nodes(problem, rules[0], nodes)
            return gradient(at_nodes, point, names, key, len(nodes), estimator)

        try:
            if rules:
                return _moments(estimate, rules)
            # Errors of the estimator itself, e.g. about the density of q, are raised also if the result is None.
            jax.eval_shape(lambda key: gradient(problem, point, names, key, 2, estimator), jax.random.key(0))
            return None
        except NotApplicable:
            return None
        except (TypeError, ValueError, NotImplementedError):
            if row_of(estimator) is not None:
                raise
            return None  # a user's estimator, which does not accept 2 or 5 samples. The objective has been checked


class AtNodes(Wrapper):
    """`q` with the given nodes as its samples. With nodes in place of random samples, expectations are exact."""

    batch_shape = ()

    def __init__(self, base: Any, place: Callable[[Any, Array], Array], nodes: Array):
        self.base, self._place, self._nodes = base, place, nodes
        self.has_rsample, self._used = has_rsample(base), False

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
