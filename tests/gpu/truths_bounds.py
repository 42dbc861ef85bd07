"""Gradients of bounds, of nested expectations and of several variables, and a user's own estimators."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import rgrad
from tests.gpu.judging import Case
from tests.gpu.truths import LOO, PATH, SCORE, UNKNOWN, N, loc_only, normal, of, square


def elbo_cases() -> dict[str, Case]:
    """The ELBO of q = N(0.7, 0.6^2) and g = exp(-x^2 / 2): d/d loc = -loc and d/d scale = 1 / scale - scale."""
    found = {}
    for entropy in ("sampled", "exact", "detached"):
        for name, estimator in (("reparameterized", PATH), ("score_function", SCORE)):

            def draw(key: Any, entropy: Any = entropy, estimator: Any = estimator) -> Any:
                loss = lambda p: rgrad.elbo(lambda x: -(x**2) / 2, normal(p), key, N, estimator, entropy)
                return jax.grad(loss)({"loc": 0.7, "scale": 0.6})

            known = name == "reparameterized" and entropy != "detached"
            found[f"elbo, {entropy}: {name}"] = Case(
                lambda draw=draw: draw,
                {"loc": -0.7, "scale": 1 / 0.6 - 0.6},
                {"loc": 0.36 / N, "scale": UNKNOWN} if known else None,
            )
    return found


def bound_cases() -> dict[str, Case]:
    """The bound of K = 2 samples, q = N(1/2, 1) and p = N(0, 1), by quadrature."""
    e, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()
    e1, e2 = np.meshgrid(e, e)
    share = 1 / (1 + np.exp(-0.5 * (e2 - e1)))  # w_1 / (w_1 + w_2), with w = exp(-theta^2 / 2 - theta e)
    bound = float((np.outer(weight, weight) * (-0.5 - (share * e1 + (1 - share) * e2))).sum())
    found = {}
    for name in ("reparameterized", "doubly_reparameterized", "sticking_the_landing", "score_function", "vimco"):

        def draw(key: Any, name: str = name) -> Any:
            rule = getattr(rgrad, name)
            log_p = dist.Normal(0.0, 1.0).log_prob
            return jax.grad(lambda m: rgrad.iwae(log_p, dist.Normal(m, 1.0), key, 2, 5, rule))(0.5)

        found[f"iwae: {name}"] = Case(lambda draw=draw: draw, -0.5 if name == "sticking_the_landing" else bound)
    return found


def attached(f: Any, q: Any, key: Any, n: int) -> Any:
    x = lax.stop_gradient(q.sample(key, (n,)))
    return rgrad.attach(jax.vmap(f)(x), q.log_prob(x))


def by_hand(f: Any, q: Any, key: Any, n: int) -> Any:
    x = lax.stop_gradient(q.sample(key, (n,)))
    slopes = {"loc": jax.vmap(jax.grad(f))(x)}
    return rgrad.attach_gradient(jax.vmap(f)(x), {"loc": q.loc, "scale": q.scale}, slopes, "by_hand")


def elsewhere(key: Any) -> Any:
    """Samples of N(1.5, 1), reweighted to N(2, 1)."""
    x = 1.5 + jax.random.normal(key, (N,))

    def loss(m: Any) -> Any:
        log_q = dist.Normal(m, 1.0).log_prob(x)
        weights = jnp.exp(lax.stop_gradient(log_q) - dist.Normal(1.5, 1.0).log_prob(x))
        return rgrad.surrogate(x**2, log_q, weights=weights).mean()

    return jax.grad(loss)(2.0)


def chain(key: Any) -> Any:
    """x ~ N(theta, 1) and y ~ N(x, 1): E[x^2 + y^2] = 2 theta^2 + 3."""
    first, second = jax.random.split(key)

    def loss(m: Any) -> Any:
        x = lax.stop_gradient(m + jax.random.normal(first))
        y = lax.stop_gradient(x + jax.random.normal(second))
        log_probs = jnp.stack([dist.Normal(m, 1.0).log_prob(x), dist.Normal(x, 1.0).log_prob(y)])
        return rgrad.credit(jnp.stack([x**2, y**2]), log_probs)

    return jax.grad(loss)(2.0)


def landed(key: Any) -> Any:
    """The detached ELBO at q = p. Its gradient is 0."""

    def loss(m: Any) -> Any:
        q = dist.Normal(m, 1.0)
        return rgrad.expect(lambda x: dist.Normal(2.0, 1.0).log_prob(x) - rgrad.detach(q).log_prob(x), q, key, N)

    return jax.grad(loss)(2.0)


def nested(x: Any, key: Any) -> Any:
    """E[x y], y ~ N(x, 1): it is x^2."""
    return rgrad.expect(lambda y: x * y, dist.Normal(x, 1.0), key, 3, rgrad.reparameterized)


def own_cases() -> dict[str, Case]:
    return {
        "own: attach": Case(of(square, loc_only, 2.0, attached), 4.0, 87 / N),
        "own: attach_gradient": Case(of(square, loc_only, 2.0, by_hand), 4.0, 4 / N),
        "surrogate": Case(lambda: elsewhere, 4.0),
        "credit": Case(lambda: chain, 8.0),
        "detach": Case(lambda: landed, 0.0),
        "nested, keyed": Case(of(nested, loc_only, 2.0, LOO, keyed=True), 4.0),
    }
