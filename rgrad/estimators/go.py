"""GO gradients of counts: the reparameterization trick with a difference of f in place of its derivative."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from rgrad.autodiff import first_order
from rgrad.backend.noise import split
from rgrad.distributions.counts import of_counts
from rgrad.distributions.cumulative import is_last, ratios
from rgrad.distributions.draws import draw, evaluate
from rgrad.distributions.keyed import base_of, with_keys
from rgrad.distributions.support import forbid_moving_support
from rgrad.distributions.wrappers import elementary
from rgrad.protocols import Distribution, Objective


def go(f: Objective, q: Distribution, key: Array, n: int) -> Array:
    """GO gradient of a count: a difference of f, weighted by the slope of the distribution function F.

        d E_q[f(x)] = E_q[(f(x + 1) - f(x)) (-dF(x)/dtheta) / q(x) dtheta + d f(x)]

    The ratio `(-dF/dtheta) / q` is 1 for the rate of a Poisson. It takes the place of `dx/dtheta` in the
    reparameterization trick. As there, the noise is small if f is smooth on the scale of q, and large if it jumps or
    oscillates. For x^2 and a Poisson of rate 30, the variance is 39 times smaller than that of the score function with
    `leave_one_out` from 12 evaluations; for a step at the mean, it is 30 times larger.

    `q` is a Poisson, Binomial, Geometric, NegativeBinomial, NegativeBinomial2 or GammaPoisson, or a vector of them
    (`to_event`), with closed forms of the ratio that are accurate in both tails. (That of the concentration is
    estimated without bias, from one more draw.) Any other integer `q` with a `cdf` works if JAX can differentiate it.
    f may be any function. It is never evaluated outside the support. In a vector one coordinate is raised by 1 at a
    time: **one call costs n (1 + D) evaluations of f** for D coordinates.

    Unbiased, to first order only: a second derivative raises. It is right at a rate of 0, and at p = 0. At p = 1 the
    gradient of a Binomial is nan, because the values that determine it are never drawn.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` is not one of these distributions; or, at trace time, a second derivative is taken, or
            the derivative with respect to the number of trials.
        ValueError: `n < 1`, `q` has a batch shape, or f returns a vector.

    Example:
        >>> loss = lambda rate: rgrad.expect(lambda x: x**2, dist.Poisson(rate), key, 1000, rgrad.go)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 1 + 2 rate
        5.0

    Source: Cong, Zhao, Bai and Carin 2019, GO gradient for expectation-based objectives (theorem 1),
    https://arxiv.org/abs/1901.06020.
    """
    base = base_of(q)
    one = elementary(base)
    for_x, for_f, for_ratios = split(key, 3)
    x = draw(base, for_x, n, "go")
    of = ratios(one, x.astype(jnp.result_type(float)), for_ratios)
    f = of_counts(f, q, "go")
    values_at = lambda points: evaluate(f, with_keys(q, points, for_f), n, "go")
    values = values_at(x)
    difference = lax.stop_gradient(_differences(values_at, values, x, jnp.where(is_last(one, x), x, x + 1)))
    as_terms = lambda a: jnp.broadcast_to(a, x.shape).astype(values.dtype)
    parameters = [as_terms(parameter) for parameter, _ in of.values()]
    gradients = [lax.stop_gradient(as_terms(ratio)) * difference for _, ratio in of.values()]
    return forbid_moving_support(first_order(values, parameters, gradients, "go"), base, "go")


def _differences(values_at: Callable[[Array], Array], values: Array, x: Array, raised: Array) -> Array:
    """`f(x with x_d raised) - f(x)` for every coordinate d: shape `(n, *event)`."""
    if x.size == 0:
        return jnp.zeros(x.shape)
    if x.ndim == 1:
        return values_at(raised) - values
    flat = lambda a: a.reshape(len(a), -1)
    with_raised = lambda d: flat(x).at[:, d].set(flat(raised)[:, d]).reshape(x.shape)
    return lax.map(lambda d: values_at(with_raised(d)) - values, jnp.arange(flat(x).shape[1])).T.reshape(x.shape)
