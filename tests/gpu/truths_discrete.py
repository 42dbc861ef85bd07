"""Gradients of expectations under discrete distributions, with sums over their values."""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import rgrad
from tests.gpu.judging import Case
from tests.gpu.truths import LOO, of, square


def bit_cases() -> dict[str, Case]:
    """(w.b - 0.3)^2 of three bits."""
    logits, w = np.array([0.4, -0.3, 0.8]), np.array([1.0, -0.7, 0.4])
    corners = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], float)
    p = 1 / (1 + np.exp(-logits))
    weight = np.prod(np.where(corners == 1, p, 1 - p), 1) * (corners @ w - 0.3) ** 2
    want = (weight[:, None] * (corners - p)).sum(0)
    bits = lambda a: dist.Bernoulli(logits=a).to_event(1)
    f = lambda b: (jnp.dot(jnp.asarray(w, float), b) - 0.3) ** 2
    estimators = {
        "enumerated": rgrad.enumerated,
        "score_function": LOO,
        "arm": rgrad.arm,
        "disarm": rgrad.disarm,
        "rebar": rgrad.rebar,
        "relax": partial(rgrad.relax, control_variate=lambda z: 0.3 * jnp.sum(jnp.tanh(z))),
        "measure_valued": rgrad.measure_valued,
        "unordered": rgrad.unordered,
    }
    return {f"bits: {name}": Case(of(f, bits, logits, e), want) for name, e in estimators.items()}


def category_cases() -> dict[str, Case]:
    """v[i]^2 of one of three values, one-hot or as an index; and x^2 of a Poisson."""
    three, v = np.array([0.2, -0.5, 0.9]), np.array([1.0, -2.0, 0.5])
    q = np.exp(three) / np.exp(three).sum()
    want = q * (v**2 - (q * v**2).sum())
    f = lambda x: jnp.dot(jnp.asarray(v, float), x) ** 2
    estimators = {
        "score_function": LOO,
        "rebar": rgrad.rebar,
        "enumerated": rgrad.enumerated,
        "unordered": partial(rgrad.unordered, k=2),
    }
    found = {f"one-hot: {name}": Case(of(f, hot, three, e), want) for name, e in estimators.items()}
    found["Categorical: score_function"] = Case(
        of(lambda i: jnp.asarray(v**2, float)[i], lambda a: dist.Categorical(logits=a), three, LOO), want
    )
    for name, e in (("measure_valued", rgrad.measure_valued), ("score_function", LOO), ("go", rgrad.go)):
        found[f"Poisson: {name}"] = Case(of(square, dist.Poisson, 2.5, e), 6.0)
    return found


def hot(logits: Any) -> Any:
    return rgrad.OneHotCategorical(logits)


def biased_cases() -> dict[str, Case]:
    """The biased estimators against what they estimate: the relaxed expectation, or a formula in their noise."""
    a, t = 0.4, 0.5
    u = (np.arange(400_000) + 0.5) / 400_000
    z = a + np.log(u) - np.log1p(-u)
    soft = 1 / (1 + np.exp(-z / t))
    slope = lambda b: 2 * (b - 0.45)
    p = 1 / (1 + math.exp(-a))
    bit, f = (lambda a: dist.Bernoulli(logits=a)), (lambda b: (b - 0.45) ** 2)
    estimators = {
        "gumbel_softmax": (
            partial(rgrad.gumbel_softmax, temperature=t),
            float((slope(soft) * soft * (1 - soft) / t).mean()),
        ),
        "straight_through": (rgrad.straight_through, (p * slope(1) + (1 - p) * slope(0)) * p * (1 - p)),
        "straight_through, temperature": (
            partial(rgrad.straight_through, temperature=t),
            float((slope((z > 0) * 1.0) * soft * (1 - soft) / t).mean()),
        ),
        "gumbel_rao": (
            partial(rgrad.gumbel_rao, temperature=t),
            float((slope((z > 0) * 1.0) * soft * (1 - soft) / t).mean()),
        ),
        "reinmax": (rgrad.reinmax, (slope(0) + slope(1)) / 2 * p * (1 - p)),
    }
    return {f"bit: {name} (biased)": Case(of(f, bit, a, e), want) for name, (e, want) in estimators.items()}
