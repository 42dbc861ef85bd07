"""Rows of the distribution table with a special form: distributions made from others, and vectors."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import transforms as to

import rgrad
from experiments.distributions.truth import INF, bent, integral, of_circle, weights

# fmt: off
REAL, POSITIVE, UNIT = (-INF, 0.0, INF), (0.0, 1.0, INF), (0.0, 0.5, 1.0)
ONES = jnp.ones(3)


def made_of_others(add: Any, count: Any, add_vector: Any) -> None:
    d = dist
    normal = lambda t: d.Normal(t[0], t[1])
    transformed = lambda base, *transforms: d.TransformedDistribution(base, list(transforms))
    add("FoldedDistribution(Normal)", lambda t: d.FoldedDistribution(normal(t)), (0.3, 0.8), POSITIVE)
    add("TransformedDistribution(exp)", lambda t: transformed(normal(t), to.ExpTransform()), (0.0, 0.8), POSITIVE)
    add("TransformedDistribution(sigmoid)", lambda t: transformed(normal(t), to.SigmoidTransform()), (0.0, 0.8), UNIT)
    add("TransformedDistribution(softplus)", lambda t: transformed(normal(t), to.SoftplusTransform()), (0.3, 0.8), POSITIVE)
    add("TransformedDistribution(affine)", lambda t: transformed(d.Normal(0.0, 1.0), to.AffineTransform(t[0], t[1])), (0.3, 0.8), REAL)
    add("TransformedDistribution(t times Beta)", lambda t: transformed(d.Beta(2.0, 3.0), to.AffineTransform(0.0, t[0])), (1.5,), lambda t: (0.0, t[0]))
    logistic = lambda: d.Logistic(0.0, 1.0)
    add("TransformedDistribution(t times sigmoid)", lambda t: transformed(logistic(), to.SigmoidTransform(), to.AffineTransform(0.0, t[0])), (1.5,), lambda t: (0.0, t[0]))
    add("TransformedDistribution(t + exp)", lambda t: transformed(d.Normal(0.0, 1.0), to.ExpTransform(), to.AffineTransform(t[0], 1.0)), (0.3,), lambda t: (t[0], t[0] + 1, INF))
    parts = lambda t: d.Normal(jnp.stack([t[0], -t[0]]), jnp.stack([t[1], t[1]]))
    for name, logits in (("0", 0.0), ("1", 1.0)):
        mixture = lambda t: d.MixtureSameFamily(d.Categorical(logits=jnp.stack([t[2], 0 * t[2]])), parts(t))
        add(f"MixtureSameFamily(Normals, logit {name})", mixture, (0.5, 0.8, logits), REAL)
    weight = lambda t: d.MixtureSameFamily(d.Categorical(probs=jnp.stack([t[0], 1 - t[0]])), d.Normal(jnp.array([-1.0, 1.0]), 1.0))
    add("MixtureSameFamily(a weight of 1/2)", weight, (0.5,), REAL)
    zero = lambda t: bent_of_normal(-1.0) * t[0] + bent_of_normal(1.0) * (1 - t[0])
    add_vector("MixtureSameFamily(a weight of 0)", weight, (0.0,), bent, zero)
    general = lambda t: d.MixtureGeneral(d.Categorical(logits=jnp.stack([t[0], -t[0]])), [d.Normal(t[1], 1.0), d.Laplace(t[1], 1.0)])
    add("MixtureGeneral(Normal and Laplace)", general, (0.0, 0.3), lambda t: (-INF, t[1], INF))
    bits = lambda t: d.MixtureSameFamily(d.Categorical(logits=jnp.stack([t[0], 0 * t[0]])), d.Bernoulli(logits=jnp.stack([t[1], 2 * t[1]])))
    count("MixtureSameFamily(Bernoullis, logit 0)", bits, (0.0, 0.0), 1)
    for name, masked in (("True", True), ("False", False)):
        q = lambda t, masked=masked: d.MaskedDistribution(normal(t), masked)
        expectation = lambda t: bent_of_normal(t[0], t[1])
        add_vector(f"MaskedDistribution(Normal, {name})", q, (0.3, 0.8), bent, expectation)
    array = lambda t: d.MaskedDistribution(d.Normal(t[0] * ONES, t[1]), jnp.array([True, False, True])).to_event(1)
    of_three = lambda t: (1.0 - 0.5 + 0.7) * bent_of_normal(t[0], t[1])
    add_vector("MaskedDistribution(array)", array, (0.3, 0.8), lambda x: weights((3,)) @ bent(x), of_three)
    add_vector("MaskedDistribution(Bernoulli)", lambda t: d.Bernoulli(logits=t[0]).mask(False), (0.3,), lambda x: x * 1.0, lambda t: sigmoid(t[0]))
    for name in ("LeftCensoredDistribution", "RightCensoredDistribution"):
        for censored in (False, True):
            kind = getattr(d, name)
            q = partial(lambda kind, censored, t: kind(normal(t), jnp.asarray(censored)), kind, censored)
            add_vector(f"{name}({censored})", q, (0.3, 0.8), bent, lambda t: bent_of_normal(t[0], t[1]))
    add_vector("Delta(v)", lambda t: d.Delta(t[0]), (0.3,), bent, lambda t: float(bent(t[0])))
    after_gate = lambda t, mean: t[0] * bent(0.0) + (1 - t[0]) * mean
    lognormal = lambda t: rest_of(lambda s: d.LogNormal(s[0], s[1]))(np.asarray(t[1:]))
    add_vector("HurdleLogNormal(1/2)", lambda t: d.HurdleLogNormal(t[0], t[1], t[2]), (0.5, 0.3, 0.8), bent, lambda t: after_gate(t, lognormal(t)))
    gamma = lambda t: rest_of(lambda s: d.Gamma(s[0], s[1]))(np.asarray(t[1:]))
    add_vector("HurdleGamma(1/2)", lambda t: d.HurdleGamma(t[0], t[1], t[2]), (0.5, 2.0, 1.0), bent, lambda t: after_gate(t, gamma(t)))
    add_vector("HurdleLogits(Gamma, 0)", lambda t: d.HurdleLogits(d.Gamma(t[1], t[2]), t[0]), (0.0, 2.0, 1.0), bent, lambda t: after_gate([sigmoid(t[0])], gamma(t)))


def rest_of(make: Any) -> Any:
    return integral(make, bent, POSITIVE)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def bent_of_normal(loc: Any, scale: Any = 1.0) -> Any:
    """`E[bent(x)]` for x ~ N(loc, scale^2), with the trapezoidal rule."""
    eps = np.linspace(-12, 12, 4001)
    p = np.exp(-(eps**2) / 2) / np.exp(-(eps**2) / 2).sum()
    half = np.tanh((loc + scale * eps) / 2)
    return 0.3 + p @ (half + 0.5 * half**2)


def vectors(add: Any) -> None:
    d = dist
    w = np.array([1.0, -0.5])
    quadratic = lambda x: w @ x + 0.5 * x @ x
    tril = lambda t: jnp.array([[1.0, 0.0], [0.5, 0.8]]) * t[1]
    covariance = lambda t: np.array([[1.0, 0.5], [0.5, 0.89]]) * t[1] ** 2
    both = lambda t: t[0] * jnp.array([1.0, 2.0])
    mean = lambda t: t[0] * np.array([1.0, 2.0])
    moments = lambda t, spread: w @ mean(t) + 0.5 * (mean(t) @ mean(t) + np.trace(spread))
    of_normal = lambda t: moments(t, covariance(t))
    mvn = d.MultivariateNormal
    add("MultivariateNormal(scale_tril)", lambda t: mvn(both(t), scale_tril=tril(t)), (0.3, 0.8), quadratic, of_normal)
    add("MultivariateNormal(covariance)", lambda t: mvn(both(t), tril(t) @ tril(t).T), (0.3, 0.8), quadratic, of_normal)
    add("MultivariateNormal(precision)", lambda t: mvn(both(t), precision_matrix=jnp.linalg.inv(tril(t) @ tril(t).T)), (0.3, 0.8), quadratic, of_normal)
    add("rgrad.location_scale", lambda t: rgrad.location_scale(both(t), tril(t)), (0.3, 0.8), quadratic, of_normal)
    low_rank = lambda t: d.LowRankMultivariateNormal(both(t), t[1] * jnp.ones((2, 1)), t[1] ** 2 * jnp.ones(2))
    add("LowRankMultivariateNormal(rank 1)", low_rank, (0.3, 0.8), quadratic, lambda t: moments(t, t[1] ** 2 * (np.ones((2, 2)) + np.eye(2))))
    add("MultivariateStudentT(8)", lambda t: d.MultivariateStudentT(8.0, both(t), tril(t)), (0.3, 0.8), lambda x: w @ x + 0.05 * x @ x, lambda t: w @ mean(t) + 0.05 * (mean(t) @ mean(t) + np.trace(covariance(t)) * 8 / 6))
    alpha = lambda t: t[0] * jnp.array([1.0, 2.0, 1.0])
    for a in (0.5, 1.0, 2.0):
        squares = lambda t: sum(a * (a + 1) for a in t[0] * np.array([1.0, 2.0, 1.0])) / (4 * t[0] * (4 * t[0] + 1))
        add(f"Dirichlet({a})", lambda t: d.Dirichlet(alpha(t)), (a,), lambda x: x @ x, squares)
    shares = lambda t: t / t.sum()
    add("Dirichlet(3 parameters)", lambda t: d.Dirichlet(t), (0.7, 1.0, 2.0), lambda x: x @ jnp.array([1.0, -0.5, 0.7]), lambda t: shares(t) @ np.array([1.0, -0.5, 0.7]))
    add("Independent(Dirichlets)", lambda t: d.Dirichlet(t * jnp.ones((2, 1))).to_event(1), (1.0, 2.0), lambda x: x[0, 0] - 0.5 * x[1, 1], lambda t: shares(t) @ w)
    add("DirichletMultinomial(1, 2; 4)", lambda t: d.DirichletMultinomial(t, 4), (1.0, 2.0), lambda x: x @ w, lambda t: 4 * shares(t) @ w)
    scale = lambda t: t[0] * jnp.array([[1.0, 0.3], [0.3, 0.8]])
    add("Wishart(4)", lambda t: d.Wishart(4.0, scale(t)), (0.7,), jnp.trace, lambda t: 4 * 1.8 * t[0])
    add("WishartCholesky(4)", lambda t: d.WishartCholesky(4.0, scale(t)), (0.7,), lambda x: (x**2).sum(), lambda t: 4 * 1.8 * t[0])
    add("InverseWishart(8)", lambda t: d.InverseWishart(8.0, scale(t)), (0.7,), jnp.trace, lambda t: 1.8 * t[0] / 5)
    add("InverseWishartCholesky(8)", lambda t: d.InverseWishartCholesky(8.0, scale(t)), (0.7,), lambda x: (x**2).sum(), lambda t: 1.8 * t[0] / 5)
    add("LKJ(2, 1)", lambda t: d.LKJ(2, t[0]), (1.0,), lambda x: x[0, 1] ** 2, lambda t: 1 / (2 * t[0] + 1))
    add("LKJCholesky(2, 2)", lambda t: d.LKJCholesky(2, t[0]), (2.0,), lambda x: x[1, 0] ** 2, lambda t: 1 / (2 * t[0] + 1))
    add("GaussianRandomWalk(scale)", lambda t: d.GaussianRandomWalk(t[0], 3), (0.8,), lambda x: x[2] ** 2, lambda t: 3 * t[0] ** 2)
    add("MatrixNormal(loc)", lambda t: d.MatrixNormal(t[0] * jnp.ones((2, 2)), tril((0, 0.8)), tril((0, t[1]))), (0.3, 0.8), lambda x: (x**2).sum(), lambda t: 4 * t[0] ** 2 + np.trace(covariance((0, 0.8))) * np.trace(covariance(t)))
    add("ZeroSumNormal(scale)", lambda t: d.ZeroSumNormal(t[0], (3,)), (0.8,), lambda x: x @ x, lambda t: 2 * t[0] ** 2)
    row = lambda t: jnp.array([1.0, 0.3, 0.3]) * t[1]
    add("CirculantNormal(loc)", lambda t: d.CirculantNormal(t[0] * ONES, row(t)), (0.3, 0.8), lambda x: x @ x, lambda t: 3 * t[0] ** 2 + 3 * t[1])
    matrix = jnp.array([[1.0, 0.4], [0.4, 1.0]])
    copula = lambda t: d.GaussianCopulaBeta(t * jnp.ones(1), jnp.array([2.0, 2.0]), matrix)
    add("GaussianCopulaBeta(1, 2)", copula, (1.0, 2.0), lambda x: x @ w, lambda t: w @ (t / (t + 2)))
    walk = lambda t: d.EulerMaruyama(jnp.array([0.0, 0.5, 1.0]), lambda x, s: (-x, t[0]), d.Normal(0.0, 1.0))
    add("EulerMaruyama(linear)", walk, (0.8,), lambda x: x[2] ** 2, lambda t: 0.25 * (0.25 + 0.5 * t[0] ** 2) + 0.5 * t[0] ** 2)
    car = lambda t: d.CAR(t[0] * ONES, 0.5, 1.0, jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), is_sparse=False)
    add("CAR(loc)", car, (0.3,), lambda x: x.sum(), lambda t: 3 * t[0])
    state = lambda t: d.GaussianStateSpace(2, jnp.eye(1) * 0.5, scale_tril=t[0] * jnp.eye(1))
    add("GaussianStateSpace(2 steps)", state, (0.8,), lambda x: x[1, 0] ** 2, lambda t: 1.25 * t[0] ** 2)
    add("ProjectedNormal(0)", lambda t: d.ProjectedNormal(t[0] * jnp.array([1.0, 0.0])), (0.8,), lambda x: x[0], projected)
    torus = lambda t: d.SineBivariateVonMises(t[0], 0.0, 2.0, 2.0, correlation=0.5)
    add("SineBivariateVonMises(loc)", torus, (0.3,), lambda x: jnp.sin(x[0]) + jnp.cos(x[1]), on_torus)
    skewed = lambda t: d.SineSkewed(d.VonMises(0.0, 1.0).expand([1]).to_event(1), t[:1])
    density = lambda t, u: (1 + t[0] * np.sin(u)) * np.exp(np.cos(u))
    u = np.linspace(-np.pi, np.pi, 2001)[:-1]
    add("SineSkewed(skewness)", skewed, (0.3,), lambda x: of_circle(x[0]), lambda t: (density(t, u) * (np.cos(u) + 0.5 * np.sin(u))).sum() / density(t, u).sum())


def projected(t: Any) -> Any:
    """`E[cos a]` of the angle of N((t, 0), I), by quadrature over the plane."""
    axis = np.linspace(-9, 9, 1201) + 0.0071
    x, y = np.meshgrid(axis + t[0], axis)
    p = np.exp(-((x - t[0]) ** 2 + y**2) / 2)
    return (p * x / np.hypot(x, y)).sum() / p.sum()


def on_torus(t: Any) -> Any:
    """`E[sin a + cos b]` for the density exp(2 cos(a - t) + 2 cos b + sin(a - t) sin b / 2)."""
    a, b = np.meshgrid(*2 * [np.linspace(-np.pi, np.pi, 401)[:-1]])
    p = np.exp(2 * np.cos(a - t[0]) + 2 * np.cos(b) + 0.5 * np.sin(a - t[0]) * np.sin(b))
    return (p * (np.sin(a) + np.cos(b))).sum() / p.sum()
