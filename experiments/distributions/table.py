"""The rows of the distribution table: name, q(theta), theta, f and the expectation of f.

The table covers every NumPyro class that can be built: as a scalar, as a vector, expanded, and with parameters of
different shapes. The parameters include points at which formulas change: logit 0, probability 0, 1/2 and 1,
concentration 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import rgrad
from experiments.distributions.others import ONES, POSITIVE, REAL, UNIT, made_of_others, vectors
from experiments.distributions.truth import INF, bent, integral, of_circle, total, weights

# fmt: off
V = jnp.array([0.5, 1.0, 2.0])  # turns a parameter into a vector


class Row(NamedTuple):
    name: str
    q: Callable[[Any], Any]
    """Maps theta, shape `(J,)`, to the distribution of one sample."""
    theta: tuple[float, ...]
    f: Callable[[Any], Any]
    expectation: Callable[[Any], Any]
    """Maps theta to `E[f]`, in 64 bits."""


def rows() -> list[Row]:
    found: list[Row] = []

    def independent(base: Any, g: Any, expectation: Any, name: str, theta: Any) -> None:
        batch = jax.eval_shape(lambda t: jnp.zeros(base(t).batch_shape), jnp.asarray(theta, float)).shape
        q = (lambda t: base(t).to_event(len(batch))) if batch else base
        f = (lambda x: weights(batch) @ g(x).reshape(-1)) if batch else (lambda x: g(x) * 1.0)
        found.append(Row(name, q, theta, f, expectation))

    def add(name: str, base: Any, theta: Any, breaks: Any, g: Any = bent) -> None:
        """A row for a continuous scalar, or for independent ones."""
        cls = name.split("(")[0]
        if hasattr(dist, cls):
            independent(base, g, integral(base, g, breaks), name, theta)

    def count(name: str, base: Any, theta: Any, largest: int = 400) -> None:
        cls = name.split("(")[0]
        if hasattr(dist, cls):
            independent(base, bent, total(base, bent, largest), name, theta)

    def add_vector(name: str, q: Any, theta: Any, f: Any, expectation: Any) -> None:
        if hasattr(dist, name.split("(")[0]) or name.startswith("rgrad"):
            found.append(Row(name, q, theta, f, expectation))

    _continuous(add)
    _bounded(add)
    made_of_others(add, count, add_vector)
    _counts(count)
    _bits(count, add_vector)
    vectors(add_vector)
    return found


at_loc = lambda t: (-INF, t[0], INF)


def _continuous(add: Any) -> None:
    d = dist
    add("Normal(loc, scale)", lambda t: d.Normal(t[0], t[1]), (0.3, 0.8), REAL)
    add("Normal(0, 1)", lambda t: d.Normal(t[0], t[1]), (0.0, 1.0), REAL)
    add("Normal(scalar, vector)", lambda t: d.Normal(t[0], t[1] * V), (0.3, 0.8), REAL)
    add("Normal(vector, scalar)", lambda t: d.Normal(t[0] * V, t[1]), (0.3, 0.8), REAL)
    add("Normal(expanded)", lambda t: d.Normal(t[0], t[1]).expand([3]), (0.3, 0.8), REAL)
    add("LogNormal(loc, scale)", lambda t: d.LogNormal(t[0], t[1]), (0.3, 0.8), POSITIVE)
    add("LogNormal(scalar, vector)", lambda t: d.LogNormal(t[0], t[1] * V), (0.0, 0.8), POSITIVE)
    add("Laplace(0, scale)", lambda t: d.Laplace(t[0], t[1]), (0.0, 1.0), at_loc)
    add("Laplace(scalar, vector)", lambda t: d.Laplace(t[0], t[1] * V), (0.5, 1.0), at_loc)
    add("Logistic(0, 1)", lambda t: d.Logistic(t[0], t[1]), (0.0, 1.0), REAL)
    add("Logistic(expanded)", lambda t: d.Logistic(t[0], t[1]).expand([2]), (0.5, 0.7), REAL)
    add("Gumbel(loc, scale)", lambda t: d.Gumbel(t[0], t[1]), (0.3, 0.8), REAL)
    add("Cauchy(loc, scale)", lambda t: d.Cauchy(t[0], t[1]), (0.3, 0.8), REAL)
    add("StudentT(df, loc, scale)", lambda t: d.StudentT(t[0], t[1], t[2]), (4.0, 0.3, 0.8), REAL)
    add("StudentT(vector, scalar)", lambda t: d.StudentT(t[0] * V + 2, t[1], 1.0), (4.0, 0.3), REAL)
    add("SoftLaplace(loc, scale)", lambda t: d.SoftLaplace(t[0], t[1]), (0.3, 0.8), REAL)
    add("AsymmetricLaplace(loc)", lambda t: d.AsymmetricLaplace(t[0], t[1], t[2]), (0.3, 0.8, 1.3), at_loc)
    add("AsymmetricLaplaceQuantile(1/2)", lambda t: d.AsymmetricLaplaceQuantile(t[0], t[1], t[2]), (0.0, 1.0, 0.5), at_loc)
    add("Exponential(rate)", lambda t: d.Exponential(t[0]), (1.3,), POSITIVE)
    add("Exponential(vector)", lambda t: d.Exponential(t[0] * V), (1.0,), POSITIVE)
    add("Exponential(expanded)", lambda t: d.Exponential(t[0]).expand([3]), (1.0,), POSITIVE)
    for name, make in (("Gamma", d.Gamma), ("InverseGamma", d.InverseGamma)):
        for a in (0.5, 1.0, 2.5):
            add(f"{name}({a}, rate)", lambda t, make=make: make(t[0], t[1]), (a, 1.2), POSITIVE)
        add(f"{name}(scalar, vector)", lambda t, make=make: make(t[0], t[1] * V), (2.0, 1.0), POSITIVE)
        add(f"{name}(vector, scalar)", lambda t, make=make: make(t[0] * V, t[1]), (2.0, 1.0), POSITIVE)
        add(f"{name}(expanded)", lambda t, make=make: make(t[0], t[1]).expand([3]), (2.0, 1.0), POSITIVE)
    add("Chi2(df)", lambda t: d.Chi2(t[0]), (3.0,), POSITIVE)
    add("Weibull(scale, 1)", lambda t: d.Weibull(t[0], t[1]), (1.2, 1.0), POSITIVE)
    add("Weibull(vector, scalar)", lambda t: d.Weibull(t[0] * V, t[1]), (1.2, 2.0), POSITIVE)
    add("HalfNormal(scale)", lambda t: d.HalfNormal(t[0]), (0.8,), POSITIVE)
    add("HalfCauchy(scale)", lambda t: d.HalfCauchy(t[0]), (0.8,), POSITIVE)
    add("Gompertz(concentration, rate)", lambda t: d.Gompertz(t[0], t[1]), (0.7, 1.2), POSITIVE)
    add("Dagum(3 parameters)", lambda t: d.Dagum(t[0], t[1], t[2]), (1.5, 2.0, 1.0), POSITIVE)
    add("Levy(0, scale)", lambda t: d.Levy(0.0, t[0]), (0.8,), POSITIVE)
    add("Pareto(1, alpha)", lambda t: d.Pareto(1.0, t[0]), (2.5,), (1.0, 2.0, INF))
    add("Pareto(scale, alpha)", lambda t: d.Pareto(t[0], t[1]), (1.0, 2.5), lambda t: (t[0], t[0] + 1, INF))
    add("LowerTruncatedPowerLaw(alpha)", lambda t: d.LowerTruncatedPowerLaw(t[0], 1.0), (-2.5,), (1.0, 2.0, INF))
    circle = (-np.pi, 0.0, np.pi)
    add("VonMises(loc, concentration)", lambda t: d.VonMises(t[0], t[1]), (0.3, 1.2), circle, of_circle)
    add("VonMises(vector, scalar)", lambda t: d.VonMises(t[0] * V, t[1]), (0.3, 1.2), circle, of_circle)


def _bounded(add: Any) -> None:
    d = dist
    for a, b in ((2.0, 3.0), (1.0, 1.0), (0.5, 0.5)):
        add(f"Beta({a}, {b})", lambda t: d.Beta(t[0], t[1]), (a, b), UNIT)
    add("Beta(scalar, vector)", lambda t: d.Beta(t[0], t[1] * V), (2.0, 1.5), UNIT)
    add("Beta(vector, scalar)", lambda t: d.Beta(t[0] * V, t[1]), (2.0, 1.5), UNIT)
    add("Beta(expanded)", lambda t: d.Beta(t[0], t[1]).expand([3]), (2.0, 1.5), UNIT)
    add("BetaProportion(1/2, concentration)", lambda t: d.BetaProportion(t[0], t[1]), (0.5, 4.0), UNIT)
    for a, b in ((2.0, 3.0), (1.0, 1.0)):
        add(f"Kumaraswamy({a}, {b})", lambda t: d.Kumaraswamy(t[0], t[1]), (a, b), UNIT)
    add("Uniform(0, high)", lambda t: d.Uniform(0.0, t[0]), (1.5,), lambda t: (0.0, t[0]))
    add("Uniform(low, high)", lambda t: d.Uniform(t[0], t[1]), (-0.5, 1.0), lambda t: (t[0], t[1]))
    add("Uniform(vector)", lambda t: d.Uniform(-t[0] * ONES, t[0]), (1.5,), lambda t: (-t[0], t[0]))
    add("LogUniform(low, high)", lambda t: d.LogUniform(t[0], t[1]), (0.5, 2.0), lambda t: (t[0], t[1]))
    add("DoublyTruncatedPowerLaw(alpha)", lambda t: d.DoublyTruncatedPowerLaw(t[0], 0.5, 3.0), (-1.5,), (0.5, 1.0, 3.0))
    add("TruncatedNormal(two sides)", lambda t: d.TruncatedNormal(t[0], t[1], low=-1.0, high=2.0), (0.3, 0.8), (-1.0, 0.0, 2.0))
    add("TruncatedNormal(left)", lambda t: d.TruncatedNormal(t[0], t[1], low=0.0), (-0.5, 1.0), POSITIVE)
    add("TruncatedNormal(tail)", lambda t: d.TruncatedNormal(t[0], 1.0, low=7.0), (0.0,), (7.0, 8.0, INF))
    add("TruncatedCauchy(left)", lambda t: d.TruncatedCauchy(t[0], t[1], low=0.0), (0.3, 0.8), POSITIVE)
    for name, base in (("Laplace", d.Laplace), ("Logistic", d.Logistic), ("Normal", d.Normal), ("Cauchy", d.Cauchy)):
        sides = {
            "Left": ({"low": -1.0}, lambda t: (-1.0, t[0], INF)),
            "Right": ({"high": 2.0}, lambda t: (-INF, t[0], 2.0)),
            "TwoSided": ({"low": -1.0, "high": 2.0}, lambda t: (-1.0, t[0], 2.0)),
        }
        for side, (ends, breaks) in sides.items():
            cls = getattr(d, f"{side}TruncatedDistribution")
            q = lambda t, cls=cls, base=base, ends=ends: cls(base(t[0], t[1]), **ends)
            add(f"{side}TruncatedDistribution({name})", q, (0.3, 0.8), breaks)
    at_kink = lambda t: d.LeftTruncatedDistribution(d.Laplace(t[0], t[1]), low=0.0)
    add("LeftTruncatedDistribution(Laplace at its kink)", at_kink, (0.1, 0.8), lambda t: (0.0, t[0], INF))
    if hasattr(d, "LeftTruncatedGamma"):
        gamma = lambda t: d.Gamma(t[0], t[1])
        add("LeftTruncatedGamma(2, 1)", lambda t: d.LeftTruncatedGamma(gamma(t), low=0.5), (2.0, 1.0), (0.5, 1.0, INF))
        add("RightTruncatedGamma(2, 1)", lambda t: d.RightTruncatedGamma(gamma(t), high=3.0), (2.0, 1.0), (0.0, 1.0, 3.0))
        add("TwoSidedTruncatedGamma(2, 1)", lambda t: d.TwoSidedTruncatedGamma(gamma(t), low=0.5, high=3.0), (2.0, 1.0), (0.5, 1.0, 3.0))
    add("RelaxedBernoulliLogits(0)", lambda t: d.RelaxedBernoulliLogits(0.7, t[0]), (0.0,), UNIT)
    add("RelaxedBernoulliLogits(.4)", lambda t: d.RelaxedBernoulliLogits(t[1], t[0]), (0.4, 1.0), UNIT)


def _counts(count: Any) -> None:
    d = dist
    for rate in (0.5, 1.0, 4.0):
        count(f"Poisson({rate})", lambda t: d.Poisson(t[0]), (rate,))
    count("Poisson(vector)", lambda t: d.Poisson(t[0] * V), (1.0,))
    count("Poisson(expanded)", lambda t: d.Poisson(t[0]).expand([3]), (1.0,))
    for logits in (0.0, 0.7):
        count(f"GeometricLogits({logits})", lambda t: d.GeometricLogits(t[0]), (logits,))
    count("GeometricProbs(1/2)", lambda t: d.GeometricProbs(t[0]), (0.5,))
    count("NegativeBinomial2(mean, concentration)", lambda t: d.NegativeBinomial2(t[0], t[1]), (2.0, 3.0))
    count("NegativeBinomialLogits(3, 0)", lambda t: d.NegativeBinomialLogits(3, t[0]), (0.0,))
    count("NegativeBinomialProbs(3, 1/2)", lambda t: d.NegativeBinomialProbs(3, t[0]), (0.5,))
    count("GammaPoisson(concentration, rate)", lambda t: d.GammaPoisson(t[0], t[1]), (2.0, 1.0))
    count("BetaBinomial(1, 1, 5)", lambda t: d.BetaBinomial(t[0], t[1], 5), (1.0, 1.0), 5)
    count("BetaNegativeBinomial(6, 2, 3)", lambda t: d.BetaNegativeBinomial(t[0], t[1], 3.0), (6.0, 2.0), 20_000)
    count("ZeroInflatedPoisson(1/2)", lambda t: d.ZeroInflatedPoisson(t[0], t[1]), (0.5, 2.0))
    count("ZeroInflatedLogits(Poisson, 0)", lambda t: d.ZeroInflatedDistribution(d.Poisson(t[1]), gate_logits=t[0]), (0.0, 2.0))
    count("ZeroInflatedProbs(Poisson, 1/2)", lambda t: d.ZeroInflatedDistribution(d.Poisson(t[1]), gate=t[0]), (0.5, 2.0))
    count("ZeroInflatedLogits(Binomial, 0)", lambda t: d.ZeroInflatedDistribution(d.Binomial(4, logits=t[1]), gate_logits=t[0]), (0.0, 0.0), 4)
    count("HurdlePoisson(1/2)", lambda t: d.HurdlePoisson(t[0], t[1]), (0.5, 2.0))
    count("HurdleLogits(Poisson, 0)", lambda t: d.HurdleLogits(d.Poisson(t[1]), t[0]), (0.0, 2.0))
    count("HurdleProbs(Poisson, 1/2)", lambda t: d.HurdleProbs(d.Poisson(t[1]), t[0]), (0.5, 2.0))
    count("OrderedLogistic(0)", lambda t: d.OrderedLogistic(t[0], jnp.array([-1.0, 0.5])), (0.0,), 2)


def _bits(count: Any, add_vector: Any) -> None:
    d = dist
    for logits in (0.0, 0.7):
        count(f"BernoulliLogits({logits})", lambda t: d.Bernoulli(logits=t[0]), (logits,), 1)
        count(f"BinomialLogits(5, {logits})", lambda t: d.Binomial(5, logits=t[0]), (logits,), 5)
        count(f"CategoricalLogits({logits})", lambda t: d.Categorical(logits=jnp.stack([t[0], 0 * t[0], -t[0]])), (logits,), 2)
    for probs in (0.3, 0.5):
        count(f"BernoulliProbs({probs})", lambda t: d.Bernoulli(probs=t[0]), (probs,), 1)
        count(f"BinomialProbs(5, {probs})", lambda t: d.Binomial(5, probs=t[0]), (probs,), 5)
        three = lambda t: d.Categorical(probs=jnp.stack([t[0], 1 - t[0], 0 * t[0] + 1]) / 2)
        count(f"CategoricalProbs({probs})", three, (probs,), 2)
    value = [float(bent(k * 1.0)) for k in range(6)]
    for probs in (0.0, 1.0):
        one = lambda t: t[0] * value[1] + (1 - t[0]) * value[0]
        add_vector(f"BernoulliProbs({probs})", lambda t: d.Bernoulli(probs=t[0]), (probs,), bent, one)
        binomial = lambda t: sum(v * c * t[0] ** k * (1 - t[0]) ** (2 - k) for k, (v, c) in enumerate(zip(value, (1, 2, 1), strict=False)))
        add_vector(f"BinomialProbs(2, {probs})", lambda t: d.Binomial(2, probs=t[0]), (probs,), bent, binomial)
        three = lambda t: (t[0] * value[0] + (1 - t[0]) * value[1] + value[2]) / 2
        add_vector(f"CategoricalProbs({probs})", lambda t: d.Categorical(probs=jnp.stack([t[0], 1 - t[0], 0 * t[0] + 1]) / 2), (probs,), lambda x: bent(x * 1.0), three)
    count("BernoulliLogits(vector)", lambda t: d.Bernoulli(logits=t[0] * V), (0.5,), 1)
    count("BernoulliLogits(expanded at 0)", lambda t: d.Bernoulli(logits=t[0]).expand([3]), (0.0,), 1)
    count("BernoulliProbs(vector)", lambda t: d.Bernoulli(probs=t[0] * V), (0.4,), 1)
    count("BinomialLogits(counts that differ)", lambda t: d.Binomial(jnp.array([1, 3]), logits=t[0]), (0.0,), 3)
    count("CategoricalLogits(vector)", lambda t: d.Categorical(logits=t[0] * jnp.array([[0.0, 1.0], [1.0, 0.0]])), (0.5,), 1)
    linear = lambda x: x @ jnp.array([1.0, -0.5, 0.7])
    softmax = lambda t: np.exp([t[0], 0.0, -t[0]]) / np.exp([t[0], 0.0, -t[0]]).sum()
    three_logits = lambda t: jnp.stack([t[0], 0 * t[0], -t[0]])
    add_vector("MultinomialLogits(3, 0)", lambda t: d.Multinomial(3, logits=three_logits(t)), (0.0,), lambda x: linear(x * 1.0), lambda t: 3 * softmax(t) @ np.array([1.0, -0.5, 0.7]))
    two_probs = lambda t: jnp.stack([t[0], 1 - t[0]])
    add_vector("MultinomialProbs(3, 1/2)", lambda t: d.Multinomial(3, probs=two_probs(t)), (0.5,), lambda x: (x * x)[0] * 1.0, lambda t: 3 * t[0] * (1 - t[0]) + 9 * t[0] ** 2)
    add_vector("rgrad.OneHotCategorical(0)", lambda t: rgrad.OneHotCategorical(three_logits(t)), (0.0,), linear, lambda t: softmax(t) @ np.array([1.0, -0.5, 0.7]))
    add_vector("DiscreteUniform(0, 3)", lambda t: d.DiscreteUniform(0, 3), (0.3,), lambda x: x * 1.0, lambda t: 1.5)
