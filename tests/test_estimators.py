"""Every estimator on every kind of distribution: gradient and Hessian against closed forms, at 1e-6 false failures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from calibration import assert_unbiased

import rgrad

leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
ESTIMATORS = {
    "reparameterized": rgrad.reparameterized,
    "score_function": rgrad.score_function,
    "score_function+number": partial(rgrad.score_function, baseline=2.0),
    "score_function+leave_one_out": leave_one_out,
    "score_function+moving_average": partial(rgrad.score_function, baseline=rgrad.moving_average(0.5).update(1.5)),
    "score_function+function": partial(rgrad.score_function, baseline=lambda v: jnp.roll(v, 1)),
}
LOWER = jnp.array([[1.0, 0.0], [0.5, 0.8]])
W = jnp.array([1.0, -0.5])


def mvn(p):
    return dist.MultivariateNormal(p["loc"], scale_tril=jnp.tril(p["scale_tril"]))


# name: (params -> q, (params, x) -> value, params, the exact expectation as a function of params)
PROBLEMS = {
    "constant": (lambda p: dist.Normal(p["loc"], 1.0), lambda p, x: 3.0, {"loc": 2.0}, lambda p: 3.0 + 0 * p["loc"]),
    "x^2, loc and scale": (
        lambda p: dist.Normal(p["loc"], p["scale"]), lambda p, x: x**2, {"loc": 1.0, "scale": 1.5},
        lambda p: p["loc"] ** 2 + p["scale"] ** 2,
    ),
    "theta x^2, theta in f too": (
        lambda p: dist.Normal(p["theta"], 1.0), lambda p, x: p["theta"] * x**2, {"theta": 1.0},
        lambda p: p["theta"] * (p["theta"] ** 2 + 1),
    ),
    "vector": (
        lambda p: dist.Normal(p["loc"], jnp.exp(p["log_scale"])).to_event(1), lambda p, x: jnp.dot(W, x) ** 2,
        {"loc": jnp.array([0.5, 1.0]), "log_scale": jnp.array([0.1, -0.3])},
        lambda p: jnp.dot(W, p["loc"]) ** 2 + jnp.sum(W**2 * jnp.exp(2 * p["log_scale"])),
    ),
    "full covariance": (
        mvn, lambda p, x: jnp.cos(jnp.dot(W, x)), {"loc": jnp.array([0.5, 1.0]), "scale_tril": LOWER},
        lambda p: jnp.cos(jnp.dot(W, p["loc"])) * jnp.exp(-jnp.sum((jnp.tril(p["scale_tril"]).T @ W) ** 2) / 2),
    ),
    "Gamma": (
        lambda p: dist.Gamma(p["a"], p["b"]), lambda p, x: x, {"a": 2.0, "b": 1.5}, lambda p: p["a"] / p["b"],
    ),
    "Dirichlet": (
        lambda p: dist.Dirichlet(p["a"]), lambda p, x: x[0] - 2 * x[2], {"a": jnp.array([1.5, 1.0, 2.0])},
        lambda p: (p["a"][0] - 2 * p["a"][2]) / jnp.sum(p["a"]),
    ),
    "Bernoulli": (
        lambda p: dist.Bernoulli(probs=p["p"]), lambda p, x: (x - 0.45) ** 2, {"p": 0.3},
        lambda p: p["p"] * 0.55**2 + (1 - p["p"]) * 0.45**2,
    ),
    "vector of Bernoullis": (
        lambda p: dist.Bernoulli(logits=p["l"]).to_event(1), lambda p, x: jnp.sum(x) ** 2,
        {"l": jnp.array([0.5, -1.0])},
        lambda p: jnp.sum(jax.nn.sigmoid(p["l"])) + 2 * jnp.prod(jax.nn.sigmoid(p["l"])),
    ),
    "Poisson": (
        lambda p: dist.Poisson(p["rate"]), lambda p, x: x**2, {"rate": 1.5}, lambda p: p["rate"] + p["rate"] ** 2,
    ),
}  # fmt: skip
CONTINUOUS = [name for name in PROBLEMS if name not in ("Bernoulli", "vector of Bernoullis", "Poisson")]
CASES = [("score_function+leave_one_out", name) for name in PROBLEMS]
CASES += [("reparameterized", name) for name in CONTINUOUS]
CASES += [(estimator, "x^2, loc and scale") for estimator in ESTIMATORS if estimator not in dict(CASES)]
CASES += [
    (estimator, "theta x^2, theta in f too")
    for estimator in ESTIMATORS
    if "+" in estimator and "leave" not in estimator
]


def loss_of(name, estimator, n):
    q, f, params, exact = PROBLEMS[name]
    loss = lambda p, key: rgrad.expect(partial(f, p), q(p), key, n, ESTIMATORS[estimator])
    return loss, jax.tree.map(jnp.asarray, params), exact


@pytest.mark.parametrize(("estimator", "problem"), CASES)
def test_gradient_is_unbiased(estimator, problem):
    """Catches a bias of 5 % of the largest gradient coordinate, or 0.02 where that is smaller."""
    loss, params, exact = loss_of(problem, estimator, 20)
    truth = jax.grad(exact)(params)
    size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(truth))
    assert_unbiased(
        lambda key: jax.grad(loss)(params, key), truth, smallest_bias=max(0.05 * size, 0.02), replicates=100_000
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("problem", ["x^2, loc and scale", "theta x^2, theta in f too"])
def test_hessian_is_unbiased(estimator, problem):
    """Catches a bias of 0.3 where the Hessian is 2 or 6; the score of the score left out would be off by more than 2."""
    loss, params, exact = loss_of(problem, estimator, 20)
    draw = lambda key: jax.hessian(loss)(params, key)
    assert_unbiased(draw, jax.hessian(exact)(params), smallest_bias=0.3, replicates=200_000)


def test_leave_one_out_on_the_two_sample_minimum():
    """n = 2, where a baseline that sees itself is off by half. Catches 0.2 of 4."""
    loss = lambda t, key: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, 2, leave_one_out)
    assert_unbiased(lambda key: jax.grad(loss)(2.0, key), 4.0, smallest_bias=0.2, replicates=200_000)


@pytest.mark.parametrize("kind", ["scalar", "vector", "full covariance"])
def test_64_bit(kind, x64):
    """Terms and gradients are 64-bit floats, and the variances are the exact ones to rounding of the same draws."""
    q = {
        "scalar": lambda t: dist.Normal(t, 1.0),
        "vector": lambda t: dist.Normal(t * jnp.ones(2), 1.0).to_event(1),
        "full covariance": lambda t: dist.MultivariateNormal(t * jnp.ones(2), jnp.eye(2)),
    }[kind]
    for estimator in ESTIMATORS.values():
        loss = lambda t, key, e=estimator: rgrad.expect(lambda x: jnp.sum(x**2), q(t), key, 10, e)
        value, gradient = jax.value_and_grad(loss)(2.0, jax.random.key(0))
        assert value.dtype == gradient.dtype == jnp.float64
        assert np.isfinite(gradient)


def test_reparameterized_needs_rsample():
    with pytest.raises(TypeError, match=r"reparameterized needs q.rsample, and Bernoulli has none; use score_function"):
        rgrad.expect(lambda x: x, dist.Bernoulli(0.3), jax.random.key(0))
    with pytest.raises(TypeError, match="Categorical has none"):
        rgrad.expect(lambda x: x, dist.Categorical(logits=jnp.zeros(3)), jax.random.key(0))
