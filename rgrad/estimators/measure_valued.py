"""Measure-valued gradients: the derivative of a density as the difference of two densities."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.autodiff import attach_gradient
from rgrad.backend.varying import same_varying
from rgrad.distributions.counts import of_counts
from rgrad.distributions.draws import WithKey, as_it_is, draw, evaluate, name_of
from rgrad.distributions.implicit import elementary
from rgrad.protocols import Objective

Rule = Callable[[Array, Array, bool], tuple[Array, Array, Array]]
"""(samples x, key, coupled) to the constant c and points x+ and x-, of the shape of x: dq/dtheta = c (q+ - q-)."""


def measure_valued(f: Objective, q: Any, key: Array, n: int, *, coupled: bool = True) -> Array:
    """The derivative of the density in a parameter is `c (q+ - q-)`, so that of the mean is `c (E_q+[f] - E_q-[f])`.

        terms_i = attach_gradient(f(x_i), theta, c (f(x+_i) - f(x-_i)))

    Asks nothing of `f` but a finite mean: it may be a step, or a `jax.pure_callback`, which JAX cannot differentiate. No
    derivative passes through x, x+ and x-; that of a parameter which f uses itself is kept. Rules for Normal and LogNormal (loc and scale), Exponential
    and Gamma (rate), Poisson (rate) and Bernoulli (probs, logits), and vectors of them by `to_event`: one coordinate is
    replaced at a time, which costs **two evaluations of f for every coordinate of every parameter**.

    Unbiased, to first order only: a second derivative raises, and so does the derivative in a parameter without a rule
    (the concentration of a Gamma).

    Args:
        coupled: x+ and x- share their noise, which makes the variance small for smooth f; False: they are independent.

    Returns:
        Shape `(n,)`, per sample.

    Raises:
        NotImplementedError: `q` has no rule; or, when differentiated, one of the two above.

    Source: Pflug 1989; Heidergott and Vazquez-Abad 2000; Mohamed et al. 2020 (section 6, table 1).
    """
    keyed = isinstance(q, WithKey)
    base: Any = q.base if keyed else q
    event = base.event_shape
    one = elementary(base)
    rules = weak_derivatives(one)
    for_x, for_f, *for_rules = jax.random.split(key, 2 + len(rules))
    x = draw(base, for_x, n, "measure_valued")
    with_key = lambda points: (points, jax.random.split(for_f, n)) if keyed else points
    f = of_counts(f, q, "measure_valued")
    values_at = lambda points: evaluate(f, with_key(points), n, "measure_valued")
    parameters, gradients = {}, {}
    for name in one.arg_constraints:
        if name in vars(one) and name not in rules:
            parameters[name] = jnp.asarray(getattr(one, name))
    for (name, rule), rule_key in zip(rules.items(), for_rules, strict=True):
        c, plus, minus = lax.stop_gradient(rule(x, rule_key, coupled))  # so that f need not be differentiable in x
        parameters[name] = jnp.broadcast_to(getattr(one, name), event)
        gradients[name] = _one_coordinate_at_a_time(values_at, x, plus, minus) * c
    return attach_gradient(values_at(x), parameters, gradients, "measure_valued")


def _one_coordinate_at_a_time(values_at: Callable[[Array], Array], x: Array, plus: Array, minus: Array) -> Array:
    """`f(x with x+_d for x_d) - f(x with x-_d)` for every coordinate d, shape `(n, *event)`."""
    if x.ndim == 1:
        return values_at(plus) - values_at(minus)
    flat = lambda a: a.reshape(len(a), -1)
    replaced = lambda points, d: flat(x).at[:, d].set(flat(points)[:, d]).reshape(x.shape)
    difference = lambda d: values_at(replaced(plus, d)) - values_at(replaced(minus, d))
    return jax.lax.map(difference, jnp.arange(flat(x).shape[1])).T.reshape(x.shape)


@singledispatch
def weak_derivatives(q: Any) -> dict[str, Rule]:
    """The rules for a distribution's parameters, by name (Mohamed et al. 2020, table 1)."""
    from rgrad.estimators.which import those_for

    raise NotImplementedError(
        f"measure_valued has no rule for {name_of(q)} (there are: Normal, LogNormal, Exponential, Gamma, Poisson, Bernoulli); "
        f"use {those_for(q)}"
    )


@weak_derivatives.register
def _(q: dist.Normal) -> dict[str, Rule]:
    return {"loc": _normal_loc(q, lambda z: z), "scale": _normal_scale(q, lambda z: z)}


@weak_derivatives.register
def _(q: dist.LogNormal) -> dict[str, Rule]:
    image = lambda y: as_it_is(jnp.exp(y))
    return {"loc": _normal_loc(q.base_dist, image), "scale": _normal_scale(q.base_dist, image)}


def _normal_loc(q: dist.Normal, image: Callable[[Array], Array]) -> Rule:
    """Normal's loc: c = 1 / (sigma sqrt(2 pi)), x+- = mu +- sigma w, w ~ Weibull(sqrt 2, 2), that is Rayleigh."""

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        w = jnp.sqrt(2 * jax.random.exponential(key, (2, *x.shape), x.dtype))
        plus, minus = w[0], w[0] if coupled else w[1]
        return 1 / (q.scale * jnp.sqrt(2 * jnp.pi)), image(q.loc + q.scale * plus), image(q.loc - q.scale * minus)

    return rule


def _normal_scale(q: dist.Normal, image: Callable[[Array], Array]) -> Rule:
    """Normal's scale: c = 1 / sigma, x+ = mu + sigma m with m double-sided Maxwell, x- = mu + sigma e normal.

    Coupled by e = m u with u uniform on (0, 1): a coordinate of a point on a sphere is uniform (Archimedes).
    """

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        for_m, for_sign, for_e = jax.random.split(key, 3)
        m = jnp.sqrt((jax.random.normal(for_m, (3, *x.shape), x.dtype) ** 2).sum(0))
        m *= jax.random.rademacher(for_sign, x.shape, x.dtype)
        e = m * jax.random.uniform(for_e, x.shape, x.dtype) if coupled else jax.random.normal(for_e, x.shape, x.dtype)
        return 1 / q.scale, image(q.loc + q.scale * m), image(q.loc + q.scale * e)

    return rule


@weak_derivatives.register
def _(q: dist.Gamma) -> dict[str, Rule]:
    """The rate b of Gamma(a, b): c = a / b, x+ ~ Gamma(a, b), x- ~ Gamma(a + 1, b); coupled: x- = x+ + Exponential(b)."""

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        a, b = q.concentration, q.rate
        more = (
            jax.random.exponential(key, x.shape, x.dtype) if coupled else jax.random.gamma(key, a + 1, x.shape, x.dtype)
        )
        return a / b, x, (x if coupled else 0.0) + more / b

    return {"rate": rule}


@weak_derivatives.register
def _(q: dist.Exponential) -> dict[str, Rule]:
    return weak_derivatives(dist.Gamma(jnp.ones_like(q.rate), q.rate))


@weak_derivatives.register
def _(q: dist.Poisson) -> dict[str, Rule]:
    """c = 1, x+ = x + 1, x- = x; independent: of another draw."""

    def rule(x: Array, key: Array, coupled: bool) -> tuple[Array, Array, Array]:
        rate, _ = same_varying(q.rate, x)
        other = x if coupled else jax.random.poisson(key, rate, x.shape).astype(x.dtype)
        return jnp.ones(()), x + 1, other

    return {"rate": rule}


@weak_derivatives.register
def _(q: dist.BernoulliProbs) -> dict[str, Rule]:
    """c = 1, x+ = 1, x- = 0."""
    return {"probs": lambda x, key, coupled: (jnp.ones(()), jnp.ones_like(x), jnp.zeros_like(x))}


@weak_derivatives.register
def _(q: dist.BernoulliLogits) -> dict[str, Rule]:
    """c = p (1 - p), x+ = 1, x- = 0."""
    p = jax.nn.sigmoid(q.logits)
    return {"logits": lambda x, key, coupled: (p * (1 - p), jnp.ones_like(x), jnp.zeros_like(x))}
