"""Truncated distributions that are correct even far in the tail.

Far in the tail, NumPyro's `icdf` and `log_prob` round the probability of the interval to 0. Let a and b be the
standardised bounds, reflected if necessary so that the interval lies in the left tail. With all probabilities as
logarithms,

    x = loc + scale z,    log F(z) = log((1 - u) F(a) + u F(b))

If NumPyro's formula does not round, the same u gives the same x. StudentT is not changed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import log_ndtr as _log_ndtr
from jax.scipy.special import ndtri
from jax.scipy.stats import norm

from rgrad.distributions.admission import TRUNCATED, changed, rebuilt

FAR = 1e18  # stands for a missing standardised bound; its square is finite
SERIES = -10.0  # below this, the ratio of Phi to its density is computed from its asymptotic series


def sharpened(q: Any) -> Any:
    """`q` with each truncated distribution replaced by one whose samples and density are correct in the tail."""
    return rebuilt(q, _sharp)


def _sharp(q: Any) -> Any:
    if isinstance(q, TRUNCATED) and type(q.base_dist) in _LOG_CDF and not isinstance(q, _Sharp):
        new = changed(q)
        new.__class__ = _SHARP[type(q)]
        return new
    return q


class _Sharp:
    """The methods that replace those of NumPyro's three classes."""

    def icdf(self: Any, u: Array) -> Array:
        loc, scale = self.base_dist.loc, self.base_dist.scale
        log_cdf, inverse = _LOG_CDF[type(self.base_dist)]
        a, b, right = _standardised(self)
        of_a, of_b = jnp.log1p(-u), jnp.log(u)
        of_a, of_b = jnp.where(right, of_b, of_a), jnp.where(right, of_a, of_b)
        z = jnp.where(right, -1, 1) * inverse(jnp.logaddexp(of_a + log_cdf(a), of_b + log_cdf(b)))
        x = loc + scale * z
        inside = jnp.clip(lax.stop_gradient(x), getattr(self, "low", -jnp.inf), getattr(self, "high", jnp.inf))
        return x + lax.stop_gradient(inside - x)  # move back what rounding moved outside

    def log_prob(self: Any, value: Array, intermediates: Any = None) -> Array:
        log_cdf, _ = _LOG_CDF[type(self.base_dist)]
        a, b, _ = _standardised(self)
        upper = log_cdf(b)
        return self.base_dist.log_prob(value) - upper - jnp.log1p(-jnp.exp(log_cdf(a) - upper))


class _Left(_Sharp, dist.LeftTruncatedDistribution):  # type: ignore[misc]
    pass


class _Right(_Sharp, dist.RightTruncatedDistribution):  # type: ignore[misc]
    pass


class _TwoSided(_Sharp, dist.TwoSidedTruncatedDistribution):  # type: ignore[misc]
    pass


_SHARP = dict(zip(TRUNCATED, (_Left, _Right, _TwoSided), strict=True))


def _standardised(q: Any) -> tuple[Any, Any, Any]:
    """The standardised bounds, reflected to (-b, -a) if a > 0, and whether they are. All bases are symmetric."""
    a, b = (_bound(q, name, none) for name, none in (("low", -FAR), ("high", FAR)))
    right = lax.stop_gradient(a) > 0
    return jnp.where(right, -b, a), jnp.where(right, -a, b), right


def _bound(q: Any, name: str, none: float) -> Any:
    bound = getattr(q, name, None)
    if bound is None:
        return jnp.asarray(none)
    infinite = jnp.isinf(bound)
    z = (jnp.where(infinite, 0.0, bound) - q.base_dist.loc) / q.base_dist.scale
    return jnp.where(infinite, jnp.sign(lax.stop_gradient(jnp.asarray(bound))) * FAR, jnp.clip(z, -FAR, FAR))


@jax.custom_jvp
def log_ndtr(z: Array) -> Array:
    """`log Phi(z)`. Its derivative is correct up to rounding, even in the tail."""
    return _log_ndtr(z)


@log_ndtr.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (z,), (dz,) = primals, tangents
    return log_ndtr(z), dz / _ratio(z)


@jax.custom_jvp
def ndtri_exp(y: Array) -> Array:
    """The z with `log Phi(z) = y`, for any y < 0. `ndtri(exp(y))` would round to -inf in the tail."""
    tail = jnp.minimum(y, -60.0)
    z = -jnp.sqrt(-2 * tail - jnp.log(-2 * tail) - jnp.log(2 * jnp.pi))
    for _ in range(3):  # Newton steps; the starting point is off by about 1e-3
        z = z - (_log_ndtr(z) - tail) * _ratio(z)
    return jnp.where(y < -60.0, z, ndtri(jnp.exp(y)))


@ndtri_exp.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (y,), (dy,) = primals, tangents
    z = ndtri_exp(y)
    return z, _ratio(z) * dy


def _ratio(z: Array) -> Array:
    """`Phi(z) / phi(z)`, the Mills ratio of -z."""
    near, far = jnp.maximum(z, SERIES), jnp.minimum(z, SERIES)
    w = 1 / far**2
    series = (1 - w * (1 - w * (3 - w * (15 - w * (105 - w * 945))))) / -far
    return jnp.where(z < SERIES, series, jnp.exp(_log_ndtr(near) - norm.logpdf(near)))


def _laplace(z: Array) -> Array:
    return jnp.where(z < 0, z - jnp.log(2.0), jnp.log1p(-jnp.exp(-jnp.maximum(z, 0.0)) / 2))


def _laplace_inverse(y: Array) -> Array:
    half = -jnp.log(2.0)
    return jnp.where(y < half, y - half, -jnp.log(-2 * jnp.expm1(jnp.maximum(y, half))))


def _soft_laplace(z: Array) -> Array:
    middle = jnp.log(2 / jnp.pi * jnp.arctan(jnp.exp(jnp.clip(z, -15.0, 40.0))))
    return jnp.where(z < -15.0, z + jnp.log(2 / jnp.pi), middle)


def _soft_laplace_inverse(y: Array) -> Array:
    middle = jnp.log(jnp.tan(jnp.pi / 2 * jnp.exp(jnp.maximum(y, -15.0))))
    return jnp.where(y < -15.0, y - jnp.log(2 / jnp.pi), middle)


# log F of the standard distribution and its inverse.
_LOG_CDF: dict[Any, tuple[Any, Any]] = {
    dist.Normal: (log_ndtr, ndtri_exp),
    dist.Laplace: (_laplace, _laplace_inverse),
    dist.Logistic: (jax.nn.log_sigmoid, lambda y: y - jnp.log(-jnp.expm1(y))),
    dist.Cauchy: (lambda z: jnp.log(jnp.arctan2(1.0, -z) / jnp.pi), lambda y: -1 / jnp.tan(jnp.pi * jnp.exp(y))),
    dist.SoftLaplace: (_soft_laplace, _soft_laplace_inverse),
}
