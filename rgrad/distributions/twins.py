"""The distributions of other libraries that NumPyro has too, under other names and with other parameters.

A twin has the same density as the original, so every rule for NumPyro's distribution applies to it. A class is known by
the start of its module and its name. None of the libraries is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from rgrad.distributions.relaxations import OneHotCategorical

TFP, DISTRAX, DISTREQX, FLOWJAX = "tensorflow_probability.", "distrax.", "distreqx.", "flowjax."
Twin = Callable[[Any], Any]


def twin_of(q: Any) -> dist.Distribution | None:
    """The distribution of NumPyro with the same density, batch shape and event shape. None if it has none.

    FlowJAX and distreqx have no batches: there, a batch of numbers is one event.
    """
    kind = type(q)
    library = next((name for name in TWINS if kind.__module__.startswith(name)), None)
    make = TWINS[library].get(kind.__name__) if library else None
    twin = None if make is None else make(unwrapped_parameters(q) if library == FLOWJAX else q)
    if twin is None or library in (TFP, DISTRAX):
        return twin
    return twin.to_event(len(twin.batch_shape)) if twin.batch_shape else twin


def unwrapped_parameters(tree: Any) -> Any:
    """The parameters in place of the wrappers around them, innermost first, e.g. paramax's `Parameterize`."""
    wraps = lambda node: callable(getattr(node, "unwrap", None))

    def plain(node: Any, own: bool) -> Any:
        stop = lambda inner: wraps(inner) and (own or inner is not node)
        return jax.tree.map(lambda x: plain(x, False).unwrap() if wraps(x) else x, node, is_leaf=stop)

    return plain(tree, True)


def _with(make: Callable[..., Any], *names: str) -> Twin:
    """The twin whose parameters are these attributes, in the order in which `make` takes them."""
    return lambda q: make(*(getattr(q, name) for name in names))


def _odds(q: Any) -> dict[str, Any]:
    """The probabilities or logits, whichever were given."""
    return {"probs": q._probs} if q._logits is None else {"logits": q._logits}


def _given(q: Any, name: str) -> Any:
    """A positive parameter of TFP, which may be given by its logarithm."""
    value = getattr(q, name)
    return jnp.exp(getattr(q, f"log_{name}")) if value is None else value


def _one_hot(q: Any) -> OneHotCategorical:
    return OneHotCategorical(jnp.log(q._probs) if q._logits is None else q._logits)


def _diagonal(q: Any, scale: Any) -> Any:
    """Independent Normals. The scale may be negative in a MultivariateNormalDiag."""
    shape = jnp.broadcast_shapes(jnp.shape(_loc(q)), jnp.shape(scale))
    return dist.Normal(jnp.broadcast_to(_loc(q), shape), jnp.broadcast_to(jnp.abs(scale), shape)).to_event(1)


def _loc(q: Any) -> Any:
    """The location. In TFP, None is 0."""
    return 0.0 if q.loc is None else q.loc


def _by_factor(loc: Any, factor: Array) -> Any:
    """The normal distribution of `loc + factor @ eps`, for any invertible factor."""
    return dist.MultivariateNormal(loc, scale_tril=jnp.linalg.cholesky(factor @ jnp.swapaxes(factor, -1, -2)))


def _lower(loc: Any, factor: Array) -> Any:
    """The same for a lower triangle. Columns with a negative diagonal are reflected, which changes no distribution."""
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)[..., None, :]
    shape = jnp.broadcast_shapes(jnp.shape(loc), jnp.shape(factor)[:-1])
    return dist.MultivariateNormal(jnp.broadcast_to(loc, shape), scale_tril=factor * jnp.where(diagonal < 0, -1, 1))


def _triangular(q: Any) -> Any:
    factor = q.scale_tri
    return _by_factor(q.loc, jnp.tril(factor) if q.is_lower else jnp.triu(factor))


def _independent(q: Any) -> Any:
    base = twin_of(q.distribution)
    return None if base is None else base.to_event(int(q.reinterpreted_batch_ndims))


def _independent_of_all(q: Any) -> Any:
    return twin_of(q.distribution)


def _repeated(q: Any) -> Any:
    base = twin_of(q.distribution)
    if base is None or base.batch_shape:
        return None
    shape = tuple(int(size) for size in np.atleast_1d(np.asarray(q.sample_shape, int)))
    return base.expand(shape).to_event(len(shape))


def _masked(q: Any) -> Any:
    """Refused like NumPyro's, because a mask removes the density but not the sample."""
    base = twin_of(q.distribution)
    return None if base is None else base.mask(q.validity_mask)


def _mixture(q: Any) -> Any:
    weights, parts = twin_of(q.mixture_distribution), twin_of(q.components_distribution)
    return None if weights is None or parts is None else dist.MixtureSameFamily(weights, parts)


def _half_cauchy(q: Any) -> Any:
    """NumPyro's starts at 0. One that starts elsewhere is its image."""
    if not isinstance(q.loc, jax.core.Tracer) and not np.any(np.asarray(q.loc)):
        return dist.HalfCauchy(q.scale)
    return dist.TransformedDistribution(dist.HalfCauchy(q.scale), dist.transforms.AffineTransform(q.loc, 1.0))


_LOC_SCALE: dict[str, Twin] = {
    name: _with(getattr(dist, name), "loc", "scale") for name in ("Normal", "Laplace", "Gumbel", "Logistic")
}
_COUNTS: dict[str, Twin] = {
    "Bernoulli": lambda q: dist.Bernoulli(**_odds(q)),
    "Categorical": lambda q: dist.Categorical(**_odds(q)),
    "OneHotCategorical": _one_hot,
}


def _multinomial(q: Any) -> Any:
    """NumPyro needs to know the count. distrax converts it, so within jit it is not known."""
    count = getattr(q, "_total_count", q.total_count)
    if isinstance(count, jax.core.Tracer):
        return None
    known = np.asarray(count).astype(int)
    return dist.Multinomial(total_count=known, total_count_max=int(known.max()), **_odds(q))


def _binomial(q: Any) -> Any:
    return dist.Binomial(total_count=jnp.asarray(q.total_count).astype(int), **_odds(q))  # TFP keeps it as a float


def _affine(make: Callable[..., Any], *names: str) -> Twin:
    """FlowJAX: the base distribution is standard, and the location and the scale are those of its bijection."""
    return lambda q: make(*(getattr(q.base_dist, name) for name in names), q.bijection.loc, q.bijection.scale)


def _standard(make: Callable[..., Any], *numbers: float) -> Twin:
    return lambda q: make(*numbers).expand(q.shape)


def _wrapped_tfp(q: Any) -> Any:
    """distrax makes a class that inherits from its own and from the one of TFP."""
    make = TWINS[TFP].get(type(q).__bases__[-1].__name__)
    return None if make is None else make(q)


TWINS: dict[str, dict[str, Twin]] = {
    TFP: {
        **_LOC_SCALE,
        **_COUNTS,
        "LogNormal": _with(dist.LogNormal, "loc", "scale"),
        "Cauchy": _with(dist.Cauchy, "loc", "scale"),
        "StudentT": _with(dist.StudentT, "df", "loc", "scale"),
        "HalfNormal": _with(dist.HalfNormal, "scale"),
        "HalfCauchy": _half_cauchy,
        "Uniform": _with(dist.Uniform, "low", "high"),
        "TruncatedNormal": lambda q: dist.TruncatedNormal(q.loc, q.scale, low=q.low, high=q.high),
        "Exponential": _with(dist.Exponential, "rate"),
        "Gamma": lambda q: dist.Gamma(q.concentration, _given(q, "rate")),
        "InverseGamma": lambda q: dist.InverseGamma(q.concentration, _given(q, "scale")),
        "Chi2": _with(dist.Chi2, "df"),
        "Beta": _with(dist.Beta, "concentration1", "concentration0"),
        "Kumaraswamy": _with(dist.Kumaraswamy, "concentration1", "concentration0"),
        "Dirichlet": _with(dist.Dirichlet, "concentration"),
        "Weibull": _with(dist.Weibull, "scale", "concentration"),
        "Pareto": _with(dist.Pareto, "scale", "concentration"),
        "VonMises": _with(dist.VonMises, "loc", "concentration"),
        "Deterministic": _with(dist.Delta, "loc"),
        "Poisson": lambda q: dist.Poisson(_given(q, "rate")),
        "Binomial": _binomial,
        "Geometric": lambda q: dist.Geometric(**_odds(q)),
        "NegativeBinomial": lambda q: dist.NegativeBinomial(total_count=q.total_count, **_odds(q)),
        "Multinomial": _multinomial,
        "MultivariateNormalDiag": lambda q: _diagonal(q, q.scale.diag_part()),
        "MultivariateNormalTriL": lambda q: _lower(_loc(q), q.scale.to_dense()),
        "MultivariateNormalFullCovariance": lambda q: _lower(_loc(q), q.scale.to_dense()),
        "Independent": _independent,
        "Sample": _repeated,
        "Masked": _masked,
        "MixtureSameFamily": _mixture,
    },
    DISTRAX: {
        **_LOC_SCALE,
        **_COUNTS,
        "DistributionFromTFP": _wrapped_tfp,
        "LogStddevNormal": _with(dist.Normal, "loc", "scale"),
        "Softmax": _COUNTS["Categorical"],
        "Greedy": _COUNTS["Categorical"],
        "EpsilonGreedy": _COUNTS["Categorical"],
        "Multinomial": _multinomial,
        "Uniform": _with(dist.Uniform, "low", "high"),
        "Gamma": _with(dist.Gamma, "concentration", "rate"),
        "Beta": _with(dist.Beta, "alpha", "beta"),
        "Dirichlet": _with(dist.Dirichlet, "concentration"),
        "VonMises": _with(dist.VonMises, "loc", "concentration"),
        "Deterministic": _with(dist.Delta, "loc"),
        "MultivariateNormalDiag": lambda q: _diagonal(q, q.scale_diag),
        "MultivariateNormalTri": _triangular,
        "MultivariateNormalFullCovariance": _with(dist.MultivariateNormal, "loc", "covariance_matrix"),
        "MultivariateNormalDiagPlusLowRank": lambda q: _by_factor(q.loc, q.scale.matrix),
        "MultivariateNormalFromBijector": lambda q: _by_factor(q.loc, q.scale.matrix),
        "Independent": _independent,
        "MixtureSameFamily": _mixture,
    },
    DISTREQX: {
        **_LOC_SCALE,
        **_COUNTS,
        "Uniform": _with(dist.Uniform, "low", "high"),
        "Gamma": _with(dist.Gamma, "concentration", "rate"),
        "Beta": _with(dist.Beta, "alpha", "beta"),
        "MultivariateNormalDiag": lambda q: _diagonal(q, q.scale_diag),
        "MultivariateNormalTri": _triangular,
        "MultivariateNormalFullCovariance": _with(dist.MultivariateNormal, "loc", "covariance_matrix"),
        "MultivariateNormalFromBijector": lambda q: _by_factor(q.loc, q.scale.matrix),
        "Independent": _independent_of_all,
    },
    FLOWJAX: {
        **{
            name: _affine(getattr(dist, name)) for name in ("Normal", "Laplace", "Gumbel", "Logistic", "Cauchy")
        },
        "StandardNormal": _standard(dist.Normal, 0.0, 1.0),
        "StudentT": _affine(dist.StudentT, "df"),
        "LogNormal": lambda q: dist.LogNormal(q.base_dist.bijection.loc, q.base_dist.bijection.scale),
        "Uniform": lambda q: dist.Uniform(q.bijection.loc, q.bijection.loc + q.bijection.scale),
        "Exponential": lambda q: dist.Exponential(1 / q.bijection.scale),
        "Gamma": lambda q: dist.Gamma(q.base_dist.concentration, 1 / q.bijection.scale),
        "Beta": _with(dist.Beta, "alpha", "beta"),
        "MultivariateNormal": lambda q: _lower(q.bijection.loc, q.bijection.triangular),
        "_StandardUniform": _standard(dist.Uniform, 0.0, 1.0),
        "_StandardLaplace": _standard(dist.Laplace, 0.0, 1.0),
        "_StandardGumbel": _standard(dist.Gumbel, 0.0, 1.0),
        "_StandardLogistic": _standard(dist.Logistic, 0.0, 1.0),
        "_StandardCauchy": _standard(dist.Cauchy, 0.0, 1.0),
        "_StandardExponential": _standard(dist.Exponential, 1.0),
        "_StandardStudentT": lambda q: dist.StudentT(q.df, 0.0, 1.0),
        "_StandardGamma": lambda q: dist.Gamma(q.concentration, 1.0),
    },
}  # fmt: skip
"""By library and name of the class: the function that makes the twin."""
