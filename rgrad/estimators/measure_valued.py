"""Measure-valued gradients: the derivative of a density, written as the difference of two densities."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from rgrad.autodiff import attach_gradient
from rgrad.backend.noise import split
from rgrad.distributions.counts import of_counts
from rgrad.distributions.draws import draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.weak_derivatives import weak_derivatives
from rgrad.distributions.wrappers import elementary
from rgrad.protocols import Distribution, Objective


def measure_valued(f: Objective, q: Distribution, key: Array, n: int, *, coupled: bool = True) -> Array:
    """Measure-valued (weak) derivative: `d q = c (q+ - q-)`, so the derivative of the mean is `c (E_q+[f] - E_q-[f])`.

        terms_i = attach_gradient(f(x_i), theta, c (f(x+_i) - f(x-_i)))

    `f` only needs a finite mean. It may be a step, or a `jax.pure_callback`, which JAX cannot differentiate. No
    derivative passes through x, x+ or x-. If f uses a parameter itself, that derivative is kept.

    There are rules for Normal and LogNormal (loc and scale), Exponential and Gamma (rate), Poisson (rate), Bernoulli
    (probs, logits), and vectors of them (`to_event`). In a vector one coordinate is replaced at a time, which costs
    **two evaluations of f for every coordinate of every parameter**.

    Unbiased, to first order only: a second derivative raises, and so does the derivative with respect to a parameter
    without a rule (the concentration of a Gamma).

    Args:
        coupled: True: x+ and x- share their noise, which makes the variance small for smooth f. False: they are
            independent.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` has no rule; or, at trace time, a second derivative is taken, or the derivative with
            respect to a parameter without a rule.

    Example:
        >>> step = lambda x: jnp.where(x > 0, 1.0, 0.0)  # its derivative is 0 almost everywhere
        >>> loss = lambda mu: rgrad.expect(step, dist.Normal(mu, 1.0), key, 1000, rgrad.measure_valued)
        >>> print(f"{jax.jit(jax.grad(loss))(0.0):.1f}")  # the truth is 0.4, the density of x at 0
        0.4

    Source: Pflug 1989; Heidergott and Vazquez-Abad 2000; Mohamed et al. 2020, Monte Carlo gradient estimation in
    machine learning (section 6, table 1), https://arxiv.org/abs/1906.10652.
    """
    base = base_of(q)
    one = elementary(base)
    rules = weak_derivatives(one)
    event = base.event_shape
    for_x, for_f, *for_rules = split(key, 2 + len(rules))
    x = draw(base, for_x, n, "measure_valued")
    f = of_counts(f, q, "measure_valued")
    values_at = lambda points: evaluate(f, with_keys(q, points, for_f), n, "measure_valued")
    parameters, gradients = {}, {}
    for name in one.arg_constraints:
        if name in vars(one) and name not in rules:
            parameters[name] = jnp.asarray(getattr(one, name))
    for (name, rule), rule_key in zip(rules.items(), for_rules, strict=True):
        c, plus, minus = lax.stop_gradient(rule(x, rule_key, coupled))  # f need not be differentiable in x
        parameters[name] = jnp.broadcast_to(getattr(one, name), event)
        gradients[name] = _one_coordinate_at_a_time(values_at, x, plus, minus) * c
    return attach_gradient(values_at(x), parameters, gradients, "measure_valued")


def _one_coordinate_at_a_time(values_at: Callable[[Array], Array], x: Array, plus: Array, minus: Array) -> Array:
    """`f(x with x_d replaced by x+_d) - f(x with x_d replaced by x-_d)` for every coordinate d: shape `(n, *event)`."""
    if x.size == 0:
        return jnp.zeros(x.shape)
    if x.ndim == 1:
        return values_at(plus) - values_at(minus)
    flat = lambda a: a.reshape(len(a), -1)
    replaced = lambda points, d: flat(x).at[:, d].set(flat(points)[:, d]).reshape(x.shape)
    difference = lambda d: values_at(replaced(plus, d)) - values_at(replaced(minus, d))
    return jax.lax.map(difference, jnp.arange(flat(x).shape[1])).T.reshape(x.shape)
