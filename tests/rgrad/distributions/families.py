"""Families of four libraries, each beside NumPyro's distribution: name -> (theirs, NumPyro's), functions of t."""

from functools import cache

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import rgrad

LIBRARIES = ("tfp", "distrax", "distreqx", "flowjax")
FAST_LIBRARIES = [
    pytest.param("tfp", marks=pytest.mark.long),
    "distrax",
    "distreqx",
    pytest.param("flowjax", marks=pytest.mark.long),
]
MATRIX = jnp.array([[1.5, 0.0], [0.4, 0.8]])
COVARIANCE = MATRIX @ MATRIX.T
PROBS = lambda t: jnp.stack([t, 1.0 - t, jnp.asarray(1.0)]) / 2.0
LOGITS = lambda t: jnp.stack([t, jnp.asarray(0.0), jnp.asarray(1.0)])
PAIR = lambda t: jnp.stack([t, jnp.asarray(0.5)])

normal = lambda t: dist.Normal(t, 1.3)
pair = lambda t: dist.Normal(PAIR(t), 1.3).to_event(1)
triangle = lambda t: dist.MultivariateNormal(PAIR(t), scale_tril=MATRIX * t)
mixture = lambda t: dist.MixtureSameFamily(dist.Categorical(probs=PROBS(t)), dist.Normal(jnp.arange(3.0), t))


def of_tfp():
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax", reason="TFP is not installed")
    d = tfp.distributions
    return {
        "Normal": (lambda t: d.Normal(t, 1.3), normal),
        "LogNormal": (lambda t: d.LogNormal(t, 0.5), lambda t: dist.LogNormal(t, 0.5)),
        "Laplace": (lambda t: d.Laplace(t, 1.3), lambda t: dist.Laplace(t, 1.3)),
        "Cauchy": (lambda t: d.Cauchy(t, 1.3), lambda t: dist.Cauchy(t, 1.3)),
        "Gumbel": (lambda t: d.Gumbel(t, 1.3), lambda t: dist.Gumbel(t, 1.3)),
        "Logistic": (lambda t: d.Logistic(t, 1.3), lambda t: dist.Logistic(t, 1.3)),
        "StudentT": (lambda t: d.StudentT(4.0, t, 1.3), lambda t: dist.StudentT(4.0, t, 1.3)),
        "HalfNormal": (lambda t: d.HalfNormal(t), lambda t: dist.HalfNormal(t)),
        "HalfCauchy": (lambda t: d.HalfCauchy(0.0, t), lambda t: dist.HalfCauchy(t)),
        "Exponential": (lambda t: d.Exponential(t), lambda t: dist.Exponential(t)),
        "Gamma": (lambda t: d.Gamma(2.0, t), lambda t: dist.Gamma(2.0, t)),
        "Gamma by log_rate": (lambda t: d.Gamma(t, log_rate=t), lambda t: dist.Gamma(t, jnp.exp(t))),
        "InverseGamma": (lambda t: d.InverseGamma(3.0, t), lambda t: dist.InverseGamma(3.0, t)),
        "Chi2": (lambda t: d.Chi2(2.0 + t), lambda t: dist.Chi2(2.0 + t)),
        "Beta": (lambda t: d.Beta(1.0 + t, 2.0), lambda t: dist.Beta(1.0 + t, 2.0)),
        "Kumaraswamy": (lambda t: d.Kumaraswamy(1.0 + t, 2.0), lambda t: dist.Kumaraswamy(1.0 + t, 2.0)),
        "Dirichlet": (lambda t: d.Dirichlet(1 + PAIR(t)), lambda t: dist.Dirichlet(1 + PAIR(t))),
        "Weibull": (lambda t: d.Weibull(1.5, t), lambda t: dist.Weibull(t, 1.5)),
        "Pareto": (lambda t: d.Pareto(3.0 + t, 1.5), lambda t: dist.Pareto(1.5, 3.0 + t)),
        "VonMises": (lambda t: d.VonMises(t, 2.0), lambda t: dist.VonMises(t, 2.0)),
        "TruncatedNormal": (lambda t: d.TruncatedNormal(t, 1.3, -1.0, 2.0), lambda t: dist.TruncatedNormal(t, 1.3, low=-1.0, high=2.0)),
        "Uniform": (lambda t: d.Uniform(0.0, t), lambda t: dist.Uniform(0.0, t)),
        "Poisson": (lambda t: d.Poisson(t), lambda t: dist.Poisson(t)),
        "Poisson by log_rate": (lambda t: d.Poisson(log_rate=t), lambda t: dist.Poisson(jnp.exp(t))),
        "Bernoulli": (lambda t: d.Bernoulli(probs=t), lambda t: dist.Bernoulli(probs=t)),
        "Bernoulli by logits": (lambda t: d.Bernoulli(logits=t), lambda t: dist.Bernoulli(logits=t)),
        "Categorical": (lambda t: d.Categorical(probs=PROBS(t)), lambda t: dist.Categorical(probs=PROBS(t))),
        "Binomial": (lambda t: d.Binomial(5.0, logits=t), lambda t: dist.Binomial(5, logits=t)),
        "Geometric": (lambda t: d.Geometric(probs=t), lambda t: dist.Geometric(probs=t)),
        "NegativeBinomial": (lambda t: d.NegativeBinomial(3.0, logits=t), lambda t: dist.NegativeBinomial(3.0, logits=t)),
        "Multinomial": (lambda t: d.Multinomial(4.0, logits=LOGITS(t)), lambda t: dist.Multinomial(4, logits=LOGITS(t))),
        "OneHotCategorical": (lambda t: d.OneHotCategorical(logits=LOGITS(t)), lambda t: rgrad.OneHotCategorical(LOGITS(t))),
        "MultivariateNormalDiag": (lambda t: d.MultivariateNormalDiag(PAIR(t), jnp.full(2, 1.3)), pair),
        "MultivariateNormalTriL": (lambda t: d.MultivariateNormalTriL(PAIR(t), MATRIX * t), triangle),
        "MultivariateNormalFullCovariance": (lambda t: d.MultivariateNormalFullCovariance(PAIR(t), COVARIANCE * t**2), triangle),
        "Independent": (lambda t: d.Independent(d.Normal(PAIR(t), 1.3), 1), pair),
        "Sample": (lambda t: d.Sample(d.Normal(t, 1.3), 2), lambda t: normal(t).expand((2,)).to_event(1)),
        "MixtureSameFamily": (
            lambda t: d.MixtureSameFamily(d.Categorical(probs=PROBS(t)), d.Normal(jnp.arange(3.0), t)),
            mixture,
        ),
    }  # fmt: skip


def of_distrax():
    d = pytest.importorskip("distrax", reason="distrax is not installed")
    return {
        "Normal": (lambda t: d.Normal(t, 1.3), normal),
        "LogStddevNormal": (lambda t: d.LogStddevNormal(0.5, t), lambda t: dist.Normal(0.5, jnp.exp(t))),
        "Laplace": (lambda t: d.Laplace(t, 1.3), lambda t: dist.Laplace(t, 1.3)),
        "Gumbel": (lambda t: d.Gumbel(t, 1.3), lambda t: dist.Gumbel(t, 1.3)),
        "Logistic": (lambda t: d.Logistic(t, 1.3), lambda t: dist.Logistic(t, 1.3)),
        "Gamma": (lambda t: d.Gamma(2.0, t), lambda t: dist.Gamma(2.0, t)),
        "Beta": (lambda t: d.Beta(1.0 + t, 2.0), lambda t: dist.Beta(1.0 + t, 2.0)),
        "Dirichlet": (lambda t: d.Dirichlet(1 + PAIR(t)), lambda t: dist.Dirichlet(1 + PAIR(t))),
        "VonMises": (lambda t: d.VonMises(t, 2.0), lambda t: dist.VonMises(t, 2.0)),
        "Uniform": (lambda t: d.Uniform(0.0, t), lambda t: dist.Uniform(0.0, t)),
        "Bernoulli": (lambda t: d.Bernoulli(probs=t, dtype=jnp.int8), lambda t: dist.Bernoulli(probs=t)),
        "Categorical": (lambda t: d.Categorical(logits=LOGITS(t)), lambda t: dist.Categorical(logits=LOGITS(t))),
        "Softmax": (lambda t: d.Softmax(LOGITS(t), 2.0), lambda t: dist.Categorical(logits=LOGITS(t) / 2)),
        "Multinomial": (lambda t: d.Multinomial(4, logits=LOGITS(t)), lambda t: dist.Multinomial(4, logits=LOGITS(t))),
        "OneHotCategorical": (lambda t: d.OneHotCategorical(logits=LOGITS(t)), lambda t: rgrad.OneHotCategorical(LOGITS(t))),
        "MultivariateNormalDiag": (lambda t: d.MultivariateNormalDiag(PAIR(t), jnp.full(2, 1.3)), pair),
        "MultivariateNormalTri": (lambda t: d.MultivariateNormalTri(PAIR(t), MATRIX * t), triangle),
        "MultivariateNormalFullCovariance": (lambda t: d.MultivariateNormalFullCovariance(PAIR(t), COVARIANCE * t**2), triangle),
        "MultivariateNormalDiagPlusLowRank": (
            lambda t: d.MultivariateNormalDiagPlusLowRank(PAIR(t), jnp.full(2, 0.5), jnp.ones((2, 1))),
            lambda t: dist.MultivariateNormal(PAIR(t), jnp.array([[3.25, 3.0], [3.0, 3.25]])),
        ),
        "Independent": (lambda t: d.Independent(d.Normal(PAIR(t), 1.3), 1), pair),
        "MixtureSameFamily": (
            lambda t: d.MixtureSameFamily(d.Categorical(probs=PROBS(t)), d.Normal(jnp.arange(3.0), t * jnp.ones(3))),
            mixture,
        ),
        "DistributionFromTFP": (lambda t: d.as_distribution(of_tfp()["Gamma"][0](t)), lambda t: dist.Gamma(2.0, t)),
    }  # fmt: skip


def of_distreqx():
    d = pytest.importorskip("distreqx.distributions", reason="distreqx is not installed")
    number = jnp.asarray
    return {
        "Normal": (lambda t: d.Normal(t, number(1.3)), normal),
        "a vector of Normals": (lambda t: d.Normal(PAIR(t), jnp.full(2, 1.3)), pair),
        "Logistic": (lambda t: d.Logistic(t, number(1.3)), lambda t: dist.Logistic(t, 1.3)),
        "Uniform": (lambda t: d.Uniform(number(0.0), t), lambda t: dist.Uniform(0.0, t)),
        "Gamma": (lambda t: d.Gamma(number(2.0), t), lambda t: dist.Gamma(2.0, t)),
        "Beta": (lambda t: d.Beta(1.0 + t, number(2.0)), lambda t: dist.Beta(1.0 + t, 2.0)),
        "Bernoulli": (lambda t: d.Bernoulli(probs=t), lambda t: dist.Bernoulli(probs=t)),
        "Categorical": (lambda t: d.Categorical(logits=LOGITS(t)), lambda t: dist.Categorical(logits=LOGITS(t))),
        "OneHotCategorical": (lambda t: d.OneHotCategorical(logits=LOGITS(t)), lambda t: rgrad.OneHotCategorical(LOGITS(t))),
        "MultivariateNormalDiag": (lambda t: d.MultivariateNormalDiag(PAIR(t), jnp.full(2, 1.3)), pair),
        "MultivariateNormalTri": (lambda t: d.MultivariateNormalTri(PAIR(t), MATRIX * t), triangle),
        "MultivariateNormalFullCovariance": (lambda t: d.MultivariateNormalFullCovariance(PAIR(t), COVARIANCE * t**2), triangle),
        "Independent": (lambda t: d.Independent(d.Normal(PAIR(t), jnp.full(2, 1.3))), pair),
    }  # fmt: skip


def of_flowjax():
    d = pytest.importorskip("flowjax.distributions", reason="FlowJAX is not installed")
    return {
        "Normal": (lambda t: d.Normal(t, 1.3), normal),
        "a vector of Normals": (lambda t: d.Normal(PAIR(t), 1.3), pair),
        "LogNormal": (lambda t: d.LogNormal(t, 0.5), lambda t: dist.LogNormal(t, 0.5)),
        "MultivariateNormal": (lambda t: d.MultivariateNormal(PAIR(t), COVARIANCE * t**2), triangle),
        "Uniform": (
            lambda t: d.Uniform(0.0, t),
            lambda t: dist.Uniform(0.0, jax.lax.stop_gradient(t)),
        ),  # it is not trainable
        "Gumbel": (lambda t: d.Gumbel(t, 1.3), lambda t: dist.Gumbel(t, 1.3)),
        "Cauchy": (lambda t: d.Cauchy(t, 1.3), lambda t: dist.Cauchy(t, 1.3)),
        "StudentT": (lambda t: d.StudentT(4.0, t, 1.3), lambda t: dist.StudentT(4.0, t, 1.3)),
        "Laplace": (lambda t: d.Laplace(t, 1.3), lambda t: dist.Laplace(t, 1.3)),
        "Exponential": (lambda t: d.Exponential(t), lambda t: dist.Exponential(t)),
        "Logistic": (lambda t: d.Logistic(t, 1.3), lambda t: dist.Logistic(t, 1.3)),
        "Gamma": (lambda t: d.Gamma(2.0, t), lambda t: dist.Gamma(2.0, 1 / t)),
        "Beta": (lambda t: d.Beta(1.0 + t, 2.0), lambda t: dist.Beta(1.0 + t, 2.0)),
        "StandardNormal": (lambda t: d.StandardNormal((2,)), lambda t: dist.Normal(jnp.zeros(2), 1.0).to_event(1)),
    }


FAMILIES = {"tfp": of_tfp, "distrax": of_distrax, "distreqx": of_distreqx, "flowjax": of_flowjax}


@cache
def families(library):
    return FAMILIES[library]()


@cache
def drawn_dtype(library, name):
    """The dtype of a sample that the library's own method returns."""
    q = families(library)[name][0](jnp.asarray(0.7))
    key = jax.random.key(0)
    return jax.eval_shape(lambda: q.sample(seed=key) if hasattr(q, "batch_shape") else q.sample(key)).dtype
