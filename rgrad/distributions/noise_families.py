"""How the samples of each family are made from noise, and their density as a function of it. See `base_noise.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import betaln, gammaln

from rgrad.distributions.draws import as_it_is
from rgrad.distributions.implicit import sample
from rgrad.distributions.transforms import plus, resolved
from rgrad.protocols import Sample


class BaseNoise(NamedTuple):
    """How a sample of `q` is made from noise, and its density as a function of that noise."""

    source: Any
    """The distribution of the noise."""
    push: Callable[[Sample], Sample]
    """Maps eps to x. Leading axes run over samples."""
    log_prob: Callable[[Sample, Array | None], Array]
    """Maps (eps, moved) to `log q(x; theta)` with x fixed, shape `q.batch_shape`. A constant may be missing.

    `moved` is used if x is the input of a transform with parameters. The output is then fixed, and x moves with the
    parameters. The value of `moved` is 0, and its derivative is that of x. None means that x is fixed.
    """
    own: bool = False
    """Whether `source.sample` draws the noise, instead of `rgrad.noise`."""
    finite: bool = False
    """Whether the density is finite for all noise that can be drawn. Checking it costs a third of a Normal's score."""

    def sample(self, key: Array, shape: tuple[int, ...]) -> Sample:
        draws = self.source.sample(key, shape) if self.own else sample(self.source, key, shape)
        return jax.tree.map(lax.stop_gradient, draws)


class Drawn(dist.Distribution):  # type: ignore[misc]
    """Noise that has only a sampler, `sampler(key, shape, *arrays)`. `shape` is that of samples, batch and event.

    The arrays are not closed over, so that `jax.tree.map` finds them, e.g. `sample_of`. Samples have no derivative in
    them.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("arrays",)
    pytree_aux_fields = ("sampler",)

    def __init__(
        self, sampler: Callable[..., Array], *arrays: Array, batch_shape: Any = (), event_shape: Any = ()
    ) -> None:
        self.sampler, self.arrays = sampler, arrays
        super().__init__(batch_shape, event_shape, validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        held = map(lax.stop_gradient, self.arrays)
        return self.sampler(key, sample_shape + self.batch_shape + self.event_shape, *held)


def _location_scale(standard: Callable[[Any], Any]) -> Callable[[Any], BaseNoise]:
    def rule(q: Any) -> BaseNoise:
        loc, scale, unit = jnp.asarray(q.loc) * 1.0, jnp.asarray(q.scale) * 1.0, standard(q)
        loc0, scale0 = lax.stop_gradient((loc, scale))

        def density(eps: Array, moved: Array | None) -> Array:
            at = eps + plus((loc0 - loc) + (scale0 - scale) * eps, moved) / scale
            return resolved(unit.log_prob(at) - jnp.log(jnp.abs(scale)), loc, scale)

        return BaseNoise(unit.expand(q.batch_shape), lambda eps: loc + scale * eps, density, finite=True)

    return rule


def _matrix(standard: Callable[[Any], Any]) -> Callable[[Any], BaseNoise]:
    """The rule of MultivariateNormal and MultivariateStudentT: `x = loc + L eps`."""

    def rule(q: Any) -> BaseNoise:
        loc, scale, unit = q.loc, q.scale_tril, standard(q)
        loc0, scale0 = lax.stop_gradient((loc, scale))
        times = lambda matrix, vector: (matrix @ vector[..., None])[..., 0]

        def density(eps: Array, moved: Array | None) -> Array:
            shift = plus((loc0 - loc) + times(scale0 - scale, eps), moved)
            at = eps + _solve(scale, shift)
            log_det = jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1)).sum(-1)
            return resolved(unit.log_prob(at) - log_det, loc, jnp.linalg.norm(scale, axis=-1), over=1)

        return BaseNoise(unit.expand(q.batch_shape), lambda eps: loc + times(scale, eps), density)

    return rule


def _solve(scale: Array, shift: Array) -> Array:
    shape = jnp.broadcast_shapes(scale.shape[:-2], shift.shape[:-1])
    scale = jnp.broadcast_to(scale, shape + scale.shape[-2:])
    shift = jnp.broadcast_to(shift, shape + shift.shape[-1:])
    return jax.scipy.linalg.solve_triangular(scale, shift[..., None], lower=True)[..., 0]


def log_gamma(key: Array, shape: tuple[int, ...], a: Array) -> Array:
    """log z with z ~ Gamma(a, 1), bounded below by about its quantile at the machine epsilon.

    JAX's own is -inf once in 2^23 draws.
    """
    y = jax.random.loggamma(key, a, shape, a.dtype)
    return jnp.maximum(y, jnp.log(jnp.finfo(y.dtype).eps) / a - 1)


def _gamma(q: Any) -> BaseNoise:
    """The rule of Gamma. The noise is log z, with z ~ Gamma(a, 1), because z itself may round to 0."""
    a, rate = jnp.asarray(q.concentration) * 1.0, jnp.asarray(q.rate) * 1.0
    rate0 = lax.stop_gradient(rate)

    def density(y: Array, moved: Array | None) -> Array:
        more = 0.0 if moved is None else jnp.log1p(moved * rate0 * jnp.exp(-y))
        log_x = y - jnp.log(rate0) + more
        log_rx = y + (jnp.log(rate) - jnp.log(rate0)) + more
        return a * log_rx - jnp.exp(log_rx) - log_x - gammaln(a)

    source = Drawn(log_gamma, a, batch_shape=q.batch_shape)
    return BaseNoise(source, lambda y: as_it_is(jnp.exp(y) / rate), density)


def _dirichlet(q: Any) -> BaseNoise:
    """The rule of Dirichlet. The noise is logarithms of Gammas. A sample is their softmax, clipped as in NumPyro."""
    a = jnp.asarray(q.concentration) * 1.0

    def density(y: Array, moved: Array | None) -> Array:
        log_x = jax.nn.log_softmax(y)
        log_x = log_x if moved is None else log_x + jnp.log1p(moved * jnp.exp(-log_x))
        return ((a - 1) * log_x - gammaln(a)).sum(-1) + gammaln(a.sum(-1))

    source = Drawn(log_gamma, a, batch_shape=q.batch_shape, event_shape=a.shape[-1:])
    return BaseNoise(source, lambda y: as_it_is(_inside(jax.nn.softmax(y))), density)


def _beta(q: Any) -> BaseNoise:
    """The rule of Beta. A sample is the first of the two shares of a Dirichlet."""
    a, b = (jnp.broadcast_to(c, q.batch_shape) * 1.0 for c in (q.concentration1, q.concentration0))

    def density(y: Array, moved: Array | None) -> Array:
        log_x, log_rest = jnp.moveaxis(jax.nn.log_softmax(y), -1, 0)
        if moved is not None:
            log_x, log_rest = (
                log_x + jnp.log1p(moved * jnp.exp(-log_x)),
                log_rest + jnp.log1p(-moved * jnp.exp(-log_rest)),
            )
        return (a - 1) * log_x + (b - 1) * log_rest - betaln(a, b)

    both = jnp.stack([a, b], -1)
    source = Drawn(log_gamma, both, batch_shape=q.batch_shape, event_shape=(2,))
    return BaseNoise(source, lambda y: as_it_is(_inside(jax.nn.softmax(y))[..., 0]), density)


def _inside(x: Array) -> Array:
    return jnp.clip(x, jnp.finfo(x.dtype).tiny, 1 - jnp.finfo(x.dtype).eps)


def _weibull(q: Any) -> BaseNoise:
    """The rule of Weibull: `x = scale E^(1/k)`, E standard exponential. It uses log x, because x may round to 0."""
    k, scale = jnp.asarray(q.concentration) * 1.0, jnp.asarray(q.scale) * 1.0
    k0, scale0 = lax.stop_gradient((k, scale))

    def density(e: Array, moved: Array | None) -> Array:
        log_ratio = jnp.log(e) / k0 + (jnp.log(scale0) - jnp.log(scale))  # log (x / scale)
        if moved is not None:
            log_ratio = log_ratio + jnp.log1p(moved / scale0 * jnp.exp(-jnp.log(e) / k0))
        return jnp.log(k) - jnp.log(scale) + (k - 1) * log_ratio - jnp.exp(k * log_ratio)

    source = Drawn(jax.random.exponential, batch_shape=q.batch_shape)
    return BaseNoise(source, lambda e: as_it_is(scale * e ** (1 / k)), density)


def _kumaraswamy(q: Any) -> BaseNoise:
    """The rule of Kumaraswamy: `x = (1 - u^(1/b))^(1/a)`, u uniform.

    It uses `1 - x^a = u^(1/b)`, which is known even if x itself rounds to 0 or 1.
    """
    a, b = jnp.asarray(q.concentration1) * 1.0, jnp.asarray(q.concentration0) * 1.0
    a0, b0 = lax.stop_gradient((a, b))

    def density(u: Array, moved: Array | None) -> Array:
        log_rest = jnp.log(u) / b0  # log (1 - x^a)
        a_log_x = jnp.log1p(-jnp.exp(log_rest))
        log_x = a_log_x / a0
        ratio = a / a0
        if moved is not None:
            log_x = log_x + jnp.log1p(moved * jnp.exp(-log_x))
            ratio = ratio * (1 + a0 * jnp.log1p(moved * jnp.exp(-a_log_x / a0)) / a_log_x)
        # log (1 - exp(ratio z)) - log (1 - exp(z)) with z = a0 log x, in a form that is accurate even for z near 0, as
        # is its derivative.
        log_rest = log_rest + jnp.log(ratio) + _log_expm1_over(ratio * a_log_x) - _log_expm1_over(a_log_x)
        return jnp.log(a) + jnp.log(b) + (a - 1) * log_x + (b - 1) * log_rest

    tiny = jnp.finfo(jnp.result_type(float)).tiny
    source = Drawn(partial(jax.random.uniform, minval=tiny), batch_shape=q.batch_shape)
    eps = jnp.finfo(jnp.result_type(float)).eps

    def push(u: Array) -> Array:  # as in NumPyro
        return as_it_is(_inside(jnp.exp(jnp.log1p(-jnp.minimum(u ** (1 / b), 1 - eps)) / a)))

    return BaseNoise(source, push, density)


def _log_expm1_over(z: Array) -> Array:
    """`log((exp(z) - 1) / z)` for z <= 0."""
    near = jnp.abs(z) < 0.03
    far = jnp.where(near, -1.0, z)
    z = jnp.where(near, z, 0.0)
    return jnp.where(near, z / 2 + z**2 / 24 - z**4 / 2880, jnp.log(jnp.expm1(far) / far))


UNIT = dict.fromkeys((dist.Normal, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel, dist.SoftLaplace))


FAMILIES: dict[type, Callable[[Any], BaseNoise]] = {
    **{kind: _location_scale(lambda q: type(q)(0.0, 1.0)) for kind in UNIT},
    dist.StudentT: _location_scale(lambda q: dist.StudentT(jnp.broadcast_to(q.df, q.batch_shape))),
    dist.AsymmetricLaplace: _location_scale(
        lambda q: dist.AsymmetricLaplace(0.0, 1.0, jnp.broadcast_to(q.asymmetry, q.batch_shape))
    ),
    dist.MultivariateNormal: _matrix(lambda q: dist.Normal(0.0, 1.0).expand(q.event_shape).to_event(1)),
    dist.MultivariateStudentT: _matrix(
        lambda q: dist.MultivariateStudentT(q.df, jnp.zeros(q.event_shape), jnp.eye(*q.event_shape))
    ),
    **dict.fromkeys((dist.Gamma, dist.Chi2), _gamma),
    **dict.fromkeys((dist.Beta, dist.BetaProportion), _beta),
    dist.Dirichlet: _dirichlet,
    dist.Weibull: _weibull,
    dist.Kumaraswamy: _kumaraswamy,
}
"""The rules by exact type, because a subclass may have another density."""
