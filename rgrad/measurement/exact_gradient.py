"""The exact gradient of an expectation, by a finite sum or by quadrature, as a reference for estimators."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from rgrad.autodiff import attach
from rgrad.backend.compiling import right
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.others import as_distribution
from rgrad.errors import NotApplicable
from rgrad.estimators.enumerated import enumerated
from rgrad.measurement.exact import TOLERANCE, problem_at_nodes
from rgrad.measurement.quadrature import Rule, rules_for
from rgrad.problems import Point, gradient
from rgrad.protocols import Objective, Problem


def exact_gradient(problem: Problem, point: Point, names: Sequence[str]) -> np.ndarray[Any, Any] | None:
    """The exact gradient for the parameters `names`, as one vector in 64 bits. None if it cannot be computed.

        d E_q[f] = sum_k w_k (f(x_k) d log q(x_k) + d f(x_k))

    Here x_k are the nodes of a rule, and w_k their weights. f may depend on x in any way, but its dependence on the
    parameters must be continuous. A finite support is summed. Normals in one or two dimensions use quadrature, as in
    `rgrad.exact_moments`, with two rules that must agree. They do not agree if f is a step function.
    """
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(np.asarray(value), None if value.dtype.kind == "i" else float)
                for name, value in point.items()}  # fmt: skip
        q = as_distribution(problem.distribution(wide), "exact_gradient")
        try:
            rules = rules_for(q)
            both = lambda p: [_sum(problem, {**wide, **p}, names, rule) for rule in rules]
            by_rule = [
                np.asarray(total)
                for total in jax.jit(both, compiler_options=right())({name: wide[name] for name in names})
            ]
            if not rules:
                of = lambda p: gradient(problem, {**wide, **p}, names, jax.random.key(0), 1, enumerated)
                by_rule = [
                    np.asarray(
                        ravel_pytree(jax.jit(of, compiler_options=right())({name: wide[name] for name in names}))[0]
                    )
                ]
        except NotApplicable:
            return None
        except (TypeError, ValueError, NotImplementedError):  # it only works in 32 bits, in which it was traced
            return None
        size = np.abs(by_rule[0]).max(initial=0.0)
        agree = np.all(np.abs(by_rule[0] - by_rule[-1]) <= TOLERANCE * np.abs(by_rule[0]) + TOLERANCE**2 * (1 + size))
        # The two rules differ by rounding error. A gradient no larger than that is 0.
        zero = (len(rules) > 1) & (np.abs(by_rule[0]) <= 10 * np.abs(by_rule[0] - by_rule[-1]))
        return np.where(zero, 0.0, by_rule[0]) if agree and np.all(np.isfinite(by_rule[0])) else None


def _sum(problem: Problem, point: Point, names: Sequence[str], rule: Rule) -> Array:
    nodes, weights = jnp.asarray(rule.nodes), jnp.asarray(rule.weights)
    at_nodes = problem_at_nodes(problem, rule, nodes)

    def weighted(f: Objective, q: Any, key: Array, n: int) -> Array:
        x = jax.lax.stop_gradient(q.sample(key, (n,)))
        return n * weights * attach(jax.vmap(f)(x), jax.vmap(lambda x: log_prob(q.base_dist, x))(x))

    return ravel_pytree(gradient(at_nodes, point, names, jax.random.key(0), len(nodes), weighted))[0]
