"""The set-ups of the distribution table, one a row: name, q(theta), theta, f and the expectation of f.

Every class of NumPyro that can be built; as a scalar, a vector, expanded, and with parameters of different shapes; at the
points where formulas change: a logit of 0, a probability of 0, 1/2 and 1, a concentration of 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import transforms as to

import rgrad
from experiments.distributions_truth import INF, integral, total, weights

ONES = jnp.ones(3)
V = jnp.array([0.5, 1.0, 2.0])  # what makes a vector of a parameter


class Row(NamedTuple):
    name: str
    q: Callable[[Any], Any]
    """theta, shape `(J,)`, to a distribution of one sample."""
    theta: tuple[float, ...]
    f: Callable[[Any], Any]
    expectation: Callable[[Any], Any] | None
    """theta to `E[f]`, in 64 bits; None: nothing is right but a refusal."""


def bent(x: Any) -> Any:
    """Neither even nor odd, bounded, smooth, and defined between whole numbers."""
    return jnp.tanh(x / 2) + 0.5 * jnp.tanh(x / 2) ** 2


def of_circle(x: Any) -> Any:
    return jnp.cos(x) + 0.5 * jnp.sin(x)


def rows() -> list[Row]:
    found: list[Row] = []

    def independent(base: Any, g: Any, expectation: Any, name: str, theta: Any) -> None:
        batch = base(jnp.asarray(theta, float)).batch_shape
        q = (lambda t: base(t).to_event(len(batch))) if batch else base
        f = (lambda x: weights(batch) @ g(x).reshape(-1)) if batch else (lambda x: g(x) * 1.0)
        found.append(Row(name, q, theta, f, expectation))

    def add(name: str, base: Any, theta: Any, breaks: Any, g: Any = bent) -> None:
        """A continuous scalar, or independent ones."""
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
    _made_of_others(add, count, add_vector)
    _counts(count)
    _bits(count, add_vector)
    _vectors(add_vector)
    return found


REAL, POSITIVE, UNIT = (-INF, 0.0, INF), (0.0, 1.0, INF), (0.0, 0.5, 1.0)
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
    add(
        "AsymmetricLaplaceQuantile(1/2)",
        lambda t: d.AsymmetricLaplaceQuantile(t[0], t[1], t[2]),
        (0.0, 1.0, 0.5),
        at_loc,
    )
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
    add(
        "TruncatedNormal(two sides)",
        lambda t: d.TruncatedNormal(t[0], t[1], low=-1.0, high=2.0),
        (0.3, 0.8),
        (-1.0, 0.0, 2.0),
    )
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
        add(
            "RightTruncatedGamma(2, 1)",
            lambda t: d.RightTruncatedGamma(gamma(t), high=3.0),
            (2.0, 1.0),
            (0.0, 1.0, 3.0),
        )
        add(
            "TwoSidedTruncatedGamma(2, 1)",
            lambda t: d.TwoSidedTruncatedGamma(gamma(t), low=0.5, high=3.0),
            (2.0, 1.0),
            (0.5, 1.0, 3.0),
        )
    add("RelaxedBernoulliLogits(0)", lambda t: d.RelaxedBernoulliLogits(0.7, t[0]), (0.0,), UNIT)
    add("RelaxedBernoulliLogits(.4)", lambda t: d.RelaxedBernoulliLogits(t[1], t[0]), (0.4, 1.0), UNIT)


def _made_of_others(add: Any, count: Any, add_vector: Any) -> None:
    d = dist
    normal = lambda t: d.Normal(t[0], t[1])
    transformed = lambda base, *transforms: d.TransformedDistribution(base, list(transforms))
    add("FoldedDistribution(Normal)", lambda t: d.FoldedDistribution(normal(t)), (0.3, 0.8), POSITIVE)
    add("TransformedDistribution(exp)", lambda t: transformed(normal(t), to.ExpTransform()), (0.0, 0.8), POSITIVE)
    add("TransformedDistribution(sigmoid)", lambda t: transformed(normal(t), to.SigmoidTransform()), (0.0, 0.8), UNIT)
    add(
        "TransformedDistribution(softplus)",
        lambda t: transformed(normal(t), to.SoftplusTransform()),
        (0.3, 0.8),
        POSITIVE,
    )
    add(
        "TransformedDistribution(affine)",
        lambda t: transformed(d.Normal(0.0, 1.0), to.AffineTransform(t[0], t[1])),
        (0.3, 0.8),
        REAL,
    )
    add(
        "TransformedDistribution(t times Beta)",
        lambda t: transformed(d.Beta(2.0, 3.0), to.AffineTransform(0.0, t[0])),
        (1.5,),
        lambda t: (0.0, t[0]),
    )
    logistic = lambda: d.Logistic(0.0, 1.0)
    add(
        "TransformedDistribution(t times sigmoid)",
        lambda t: transformed(logistic(), to.SigmoidTransform(), to.AffineTransform(0.0, t[0])),
        (1.5,),
        lambda t: (0.0, t[0]),
    )
    add(
        "TransformedDistribution(t + exp)",
        lambda t: transformed(d.Normal(0.0, 1.0), to.ExpTransform(), to.AffineTransform(t[0], 1.0)),
        (0.3,),
        lambda t: (t[0], t[0] + 1, INF),
    )
    parts = lambda t: d.Normal(jnp.stack([t[0], -t[0]]), jnp.stack([t[1], t[1]]))
    for name, logits in (("0", 0.0), ("1", 1.0)):
        mixture = lambda t: d.MixtureSameFamily(d.Categorical(logits=jnp.stack([t[2], 0 * t[2]])), parts(t))
        add(f"MixtureSameFamily(Normals, logit {name})", mixture, (0.5, 0.8, logits), REAL)
    weight = lambda t: d.MixtureSameFamily(
        d.Categorical(probs=jnp.stack([t[0], 1 - t[0]])), d.Normal(jnp.array([-1.0, 1.0]), 1.0)
    )
    add("MixtureSameFamily(a weight of 1/2)", weight, (0.5,), REAL)
    zero = lambda t: bent_of_normal(-1.0) * t[0] + bent_of_normal(1.0) * (1 - t[0])
    add_vector("MixtureSameFamily(a weight of 0)", weight, (0.0,), bent, zero)
    general = lambda t: d.MixtureGeneral(
        d.Categorical(logits=jnp.stack([t[0], -t[0]])), [d.Normal(t[1], 1.0), d.Laplace(t[1], 1.0)]
    )
    add("MixtureGeneral(Normal and Laplace)", general, (0.0, 0.3), lambda t: (-INF, t[1], INF))
    bits = lambda t: d.MixtureSameFamily(
        d.Categorical(logits=jnp.stack([t[0], 0 * t[0]])), d.Bernoulli(logits=jnp.stack([t[1], 2 * t[1]]))
    )
    count("MixtureSameFamily(Bernoullis, logit 0)", bits, (0.0, 0.0), 1)
    for name, masked in (("True", True), ("False", False)):
        q = lambda t, masked=masked: d.MaskedDistribution(normal(t), masked)
        expectation = lambda t: bent_of_normal(t[0], t[1])
        add_vector(f"MaskedDistribution(Normal, {name})", q, (0.3, 0.8), bent, expectation)
    array = lambda t: d.MaskedDistribution(d.Normal(t[0] * ONES, t[1]), jnp.array([True, False, True])).to_event(1)
    of_three = lambda t: (1.0 - 0.5 + 0.7) * bent_of_normal(t[0], t[1])
    add_vector("MaskedDistribution(array)", array, (0.3, 0.8), lambda x: weights((3,)) @ bent(x), of_three)
    add_vector(
        "MaskedDistribution(Bernoulli)",
        lambda t: d.Bernoulli(logits=t[0]).mask(False),
        (0.3,),
        lambda x: x * 1.0,
        lambda t: sigmoid(t[0]),
    )
    for name in ("LeftCensoredDistribution", "RightCensoredDistribution"):
        for censored in (False, True):
            q = lambda t, name=name, censored=censored: getattr(d, name)(normal(t), jnp.asarray(censored))
            add_vector(f"{name}({censored})", q, (0.3, 0.8), bent, lambda t: bent_of_normal(t[0], t[1]))
    add_vector(
        "Delta(v)", lambda t: d.Delta(t[0]), (0.3,), bent, lambda t: np.tanh(t[0] / 2) + 0.5 * np.tanh(t[0] / 2) ** 2
    )
    after_gate = lambda t, mean: t[0] * bent(0.0) + (1 - t[0]) * mean
    lognormal = lambda t: rest_of(lambda s: d.LogNormal(s[0], s[1]))(np.asarray(t[1:]))
    add_vector(
        "HurdleLogNormal(1/2)",
        lambda t: d.HurdleLogNormal(t[0], t[1], t[2]),
        (0.5, 0.3, 0.8),
        bent,
        lambda t: after_gate(t, lognormal(t)),
    )
    gamma = lambda t: rest_of(lambda s: d.Gamma(s[0], s[1]))(np.asarray(t[1:]))
    add_vector(
        "HurdleGamma(1/2)",
        lambda t: d.HurdleGamma(t[0], t[1], t[2]),
        (0.5, 2.0, 1.0),
        bent,
        lambda t: after_gate(t, gamma(t)),
    )
    add_vector(
        "HurdleLogits(Gamma, 0)",
        lambda t: d.HurdleLogits(d.Gamma(t[1], t[2]), t[0]),
        (0.0, 2.0, 1.0),
        bent,
        lambda t: (1 - sigmoid(t[0])) * gamma(t),
    )


def rest_of(make: Any) -> Any:
    return integral(make, bent, POSITIVE)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def bent_of_normal(loc: Any, scale: Any = 1.0) -> Any:
    """`E[bent(x)]` for x ~ N(loc, scale^2), by the trapezoidal rule."""
    eps = np.linspace(-12, 12, 4001)
    p = np.exp(-(eps**2) / 2) / np.exp(-(eps**2) / 2).sum()
    half = np.tanh((loc + scale * eps) / 2)
    return p @ (half + 0.5 * half**2)


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
    count(
        "ZeroInflatedLogits(Poisson, 0)",
        lambda t: d.ZeroInflatedDistribution(d.Poisson(t[1]), gate_logits=t[0]),
        (0.0, 2.0),
    )
    count(
        "ZeroInflatedProbs(Poisson, 1/2)", lambda t: d.ZeroInflatedDistribution(d.Poisson(t[1]), gate=t[0]), (0.5, 2.0)
    )
    count(
        "ZeroInflatedLogits(Binomial, 0)",
        lambda t: d.ZeroInflatedDistribution(d.Binomial(4, logits=t[1]), gate_logits=t[0]),
        (0.0, 0.0),
        4,
    )
    count("HurdlePoisson(1/2)", lambda t: d.HurdlePoisson(t[0], t[1]), (0.5, 2.0))
    count("HurdleLogits(Poisson, 0)", lambda t: d.HurdleLogits(d.Poisson(t[1]), t[0]), (0.0, 2.0))
    count("HurdleProbs(Poisson, 1/2)", lambda t: d.HurdleProbs(d.Poisson(t[1]), t[0]), (0.5, 2.0))
    count("OrderedLogistic(0)", lambda t: d.OrderedLogistic(t[0], jnp.array([-1.0, 0.5])), (0.0,), 2)


def _bits(count: Any, add_vector: Any) -> None:
    d = dist
    for logits in (0.0, 0.7):
        count(f"BernoulliLogits({logits})", lambda t: d.Bernoulli(logits=t[0]), (logits,), 1)
        count(f"BinomialLogits(5, {logits})", lambda t: d.Binomial(5, logits=t[0]), (logits,), 5)
        count(
            f"CategoricalLogits({logits})",
            lambda t: d.Categorical(logits=jnp.stack([t[0], 0 * t[0], -t[0]])),
            (logits,),
            2,
        )
    for probs in (0.3, 0.5):
        count(f"BernoulliProbs({probs})", lambda t: d.Bernoulli(probs=t[0]), (probs,), 1)
        count(f"BinomialProbs(5, {probs})", lambda t: d.Binomial(5, probs=t[0]), (probs,), 5)
        three = lambda t: d.Categorical(probs=jnp.stack([t[0], 1 - t[0], 0 * t[0] + 1]) / 2)
        count(f"CategoricalProbs({probs})", three, (probs,), 2)
    value = [float(bent(k * 1.0)) for k in range(6)]
    for probs in (0.0, 1.0):
        one = lambda t: t[0] * value[1]
        add_vector(f"BernoulliProbs({probs})", lambda t: d.Bernoulli(probs=t[0]), (probs,), bent, one)
        binomial = lambda t: sum(
            v * c * t[0] ** k * (1 - t[0]) ** (2 - k) for k, (v, c) in enumerate(zip(value, (1, 2, 1), strict=False))
        )
        add_vector(f"BinomialProbs(2, {probs})", lambda t: d.Binomial(2, probs=t[0]), (probs,), bent, binomial)
        three = lambda t: (t[0] * value[0] + (1 - t[0]) * value[1] + value[2]) / 2
        add_vector(
            f"CategoricalProbs({probs})",
            lambda t: d.Categorical(probs=jnp.stack([t[0], 1 - t[0], 0 * t[0] + 1]) / 2),
            (probs,),
            lambda x: bent(x * 1.0),
            three,
        )
    count("BernoulliLogits(vector)", lambda t: d.Bernoulli(logits=t[0] * V), (0.5,), 1)
    count("BernoulliLogits(expanded at 0)", lambda t: d.Bernoulli(logits=t[0]).expand([3]), (0.0,), 1)
    count("BernoulliProbs(vector)", lambda t: d.Bernoulli(probs=t[0] * V), (0.4,), 1)
    count("BinomialLogits(counts that differ)", lambda t: d.Binomial(jnp.array([1, 3]), logits=t[0]), (0.0,), 3)
    count(
        "CategoricalLogits(vector)",
        lambda t: d.Categorical(logits=t[0] * jnp.array([[0.0, 1.0], [1.0, 0.0]])),
        (0.5,),
        1,
    )
    three = lambda x: x @ jnp.array([1.0, -0.5, 0.7])
    softmax = lambda t: np.exp([t[0], 0.0, -t[0]]) / np.exp([t[0], 0.0, -t[0]]).sum()
    logits = lambda t: jnp.stack([t[0], 0 * t[0], -t[0]])
    add_vector(
        "MultinomialLogits(3, 0)",
        lambda t: d.Multinomial(3, logits=logits(t)),
        (0.0,),
        lambda x: three(x * 1.0),
        lambda t: 3 * softmax(t) @ np.array([1.0, -0.5, 0.7]),
    )
    probs = lambda t: jnp.stack([t[0], 1 - t[0]])
    add_vector(
        "MultinomialProbs(3, 1/2)",
        lambda t: d.Multinomial(3, probs=probs(t)),
        (0.5,),
        lambda x: (x * x)[0] * 1.0,
        lambda t: 3 * t[0] * (1 - t[0]) + 9 * t[0] ** 2,
    )
    add_vector(
        "rgrad.OneHotCategorical(0)",
        lambda t: rgrad.OneHotCategorical(logits(t)),
        (0.0,),
        three,
        lambda t: softmax(t) @ np.array([1.0, -0.5, 0.7]),
    )
    add_vector("DiscreteUniform(0, 3)", lambda t: d.DiscreteUniform(0, 3), (0.3,), lambda x: x * 1.0, lambda t: 1.5)


def _vectors(add: Any) -> None:
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
    add(
        "MultivariateNormal(precision)",
        lambda t: mvn(both(t), precision_matrix=jnp.linalg.inv(tril(t) @ tril(t).T)),
        (0.3, 0.8),
        quadratic,
        of_normal,
    )
    add("rgrad.location_scale", lambda t: rgrad.location_scale(both(t), tril(t)), (0.3, 0.8), quadratic, of_normal)
    low_rank = lambda t: d.LowRankMultivariateNormal(both(t), t[1] * jnp.ones((2, 1)), t[1] ** 2 * jnp.ones(2))
    add(
        "LowRankMultivariateNormal(rank 1)",
        low_rank,
        (0.3, 0.8),
        quadratic,
        lambda t: moments(t, t[1] ** 2 * (np.ones((2, 2)) + np.eye(2))),
    )
    add(
        "MultivariateStudentT(8)",
        lambda t: d.MultivariateStudentT(8.0, both(t), tril(t)),
        (0.3, 0.8),
        lambda x: w @ x + 0.05 * x @ x,
        lambda t: w @ mean(t) + 0.05 * (mean(t) @ mean(t) + np.trace(covariance(t)) * 8 / 6),
    )
    alpha = lambda t: t[0] * jnp.array([1.0, 2.0, 1.0])
    for a in (0.5, 1.0, 2.0):
        squares = lambda t: sum(a * (a + 1) for a in t[0] * np.array([1.0, 2.0, 1.0])) / (4 * t[0] * (4 * t[0] + 1))
        add(f"Dirichlet({a})", lambda t: d.Dirichlet(alpha(t)), (a,), lambda x: x @ x, squares)
    shares = lambda t: t / t.sum()
    add(
        "Dirichlet(3 parameters)",
        lambda t: d.Dirichlet(t),
        (0.7, 1.0, 2.0),
        lambda x: x @ jnp.array([1.0, -0.5, 0.7]),
        lambda t: shares(t) @ np.array([1.0, -0.5, 0.7]),
    )
    add(
        "Independent(Dirichlets)",
        lambda t: d.Dirichlet(t * jnp.ones((2, 1))).to_event(1),
        (1.0, 2.0),
        lambda x: x[0, 0] - 0.5 * x[1, 1],
        lambda t: shares(t) @ w,
    )
    add(
        "DirichletMultinomial(1, 2; 4)",
        lambda t: d.DirichletMultinomial(t, 4),
        (1.0, 2.0),
        lambda x: x @ w,
        lambda t: 4 * shares(t) @ w,
    )
    scale = lambda t: t[0] * jnp.array([[1.0, 0.3], [0.3, 0.8]])
    add("Wishart(4)", lambda t: d.Wishart(4.0, scale(t)), (0.7,), jnp.trace, lambda t: 4 * 1.8 * t[0])
    add(
        "WishartCholesky(4)",
        lambda t: d.WishartCholesky(4.0, scale(t)),
        (0.7,),
        lambda x: (x**2).sum(),
        lambda t: 4 * 1.8 * t[0],
    )
    add("InverseWishart(8)", lambda t: d.InverseWishart(8.0, scale(t)), (0.7,), jnp.trace, lambda t: 1.8 * t[0] / 5)
    add(
        "InverseWishartCholesky(8)",
        lambda t: d.InverseWishartCholesky(8.0, scale(t)),
        (0.7,),
        lambda x: (x**2).sum(),
        lambda t: 1.8 * t[0] / 5,
    )
    add("LKJ(2, 1)", lambda t: d.LKJ(2, t[0]), (1.0,), lambda x: x[0, 1] ** 2, lambda t: 1 / (2 * t[0] + 1))
    add(
        "LKJCholesky(2, 2)",
        lambda t: d.LKJCholesky(2, t[0]),
        (2.0,),
        lambda x: x[1, 0] ** 2,
        lambda t: 1 / (2 * t[0] + 1),
    )
    add(
        "GaussianRandomWalk(scale)",
        lambda t: d.GaussianRandomWalk(t[0], 3),
        (0.8,),
        lambda x: x[2] ** 2,
        lambda t: 3 * t[0] ** 2,
    )
    add(
        "MatrixNormal(loc)",
        lambda t: d.MatrixNormal(t[0] * jnp.ones((2, 2)), tril((0, 0.8)), tril((0, t[1]))),
        (0.3, 0.8),
        lambda x: (x**2).sum(),
        lambda t: 4 * t[0] ** 2 + np.trace(covariance((0, 0.8))) * np.trace(covariance(t)),
    )
    add("ZeroSumNormal(scale)", lambda t: d.ZeroSumNormal(t[0], (3,)), (0.8,), lambda x: x @ x, lambda t: 2 * t[0] ** 2)
    row = lambda t: jnp.array([1.0, 0.3, 0.3]) * t[1]
    add(
        "CirculantNormal(loc)",
        lambda t: d.CirculantNormal(t[0] * ONES, row(t)),
        (0.3, 0.8),
        lambda x: x @ x,
        lambda t: 3 * t[0] ** 2 + 3 * t[1],
    )
    matrix = jnp.array([[1.0, 0.4], [0.4, 1.0]])
    copula = lambda t: d.GaussianCopulaBeta(t * jnp.ones(1), jnp.array([2.0, 2.0]), matrix)
    add("GaussianCopulaBeta(1, 2)", copula, (1.0, 2.0), lambda x: x @ w, lambda t: w @ (t / (t + 2)))
    walk = lambda t: d.EulerMaruyama(jnp.array([0.0, 0.5, 1.0]), lambda x, s: (-x, t[0]), d.Normal(0.0, 1.0))
    add(
        "EulerMaruyama(linear)",
        walk,
        (0.8,),
        lambda x: x[2] ** 2,
        lambda t: 0.25 * (0.25 + 0.5 * t[0] ** 2) + 0.5 * t[0] ** 2,
    )
    car = lambda t: d.CAR(
        t[0] * ONES, 0.5, 1.0, jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), is_sparse=False
    )
    add("CAR(loc)", car, (0.3,), lambda x: x.sum(), lambda t: 3 * t[0])
    state = lambda t: d.GaussianStateSpace(2, jnp.eye(1) * 0.5, scale_tril=t[0] * jnp.eye(1))
    add("GaussianStateSpace(2 steps)", state, (0.8,), lambda x: x[1, 0] ** 2, lambda t: 1.25 * t[0] ** 2)
    add(
        "ProjectedNormal(0)",
        lambda t: d.ProjectedNormal(t[0] * jnp.array([1.0, 0.0])),
        (0.8,),
        lambda x: x[0],
        projected,
    )
    torus = lambda t: d.SineBivariateVonMises(t[0], 0.0, 2.0, 2.0, correlation=0.5)
    add("SineBivariateVonMises(loc)", torus, (0.3,), lambda x: jnp.sin(x[0]) + jnp.cos(x[1]), None)
    skewed = lambda t: d.SineSkewed(d.VonMises(0.0, 1.0).expand([1]).to_event(1), t[:1])
    density = lambda t, u: (1 + t[0] * np.sin(u)) * np.exp(np.cos(u))
    u = np.linspace(-np.pi, np.pi, 2001)[:-1]
    add(
        "SineSkewed(skewness)",
        skewed,
        (0.3,),
        lambda x: of_circle(x[0]),
        lambda t: (density(t, u) * (np.cos(u) + 0.5 * np.sin(u))).sum() / density(t, u).sum(),
    )


def projected(t: Any) -> Any:
    """`E[cos a]` of the angle of N((t, 0), I), by quadrature over the plane."""
    axis = np.linspace(-9, 9, 1201) + 0.0071
    x, y = np.meshgrid(axis + t[0], axis)
    p = np.exp(-((x - t[0]) ** 2 + y**2) / 2)
    return (p * x / np.hypot(x, y)).sum() / p.sum()
