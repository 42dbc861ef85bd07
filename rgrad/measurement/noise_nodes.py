"""The noise behind the samples of a continuous distribution: the nodes of each number, and how they become a sample.

The noise is that of `rgrad.distributions.base_noise`, so a node becomes a sample in the way in which a drawn number does,
with the same derivative. Each number is a function of a variable s on the real line, in which its density falls at least
exponentially. The trapezoidal rule in s then converges exponentially for analytic functions.

Source: Takahasi and Mori 1974, Double exponential formulas for numerical integration,
https://doi.org/10.2977/prims/1195192451.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import digamma

from rgrad.autodiff import refuse_where
from rgrad.distributions.base_noise import base_noise
from rgrad.distributions.implicit import implicit
from rgrad.distributions.noise_families import Drawn, log_gamma
from rgrad.distributions.wrappers import elementary

Nodes = tuple[np.ndarray, np.ndarray]
Axis = Callable[[float, float], Nodes | None]
"""`(step, keep) -> (nodes, weights)` of one number: nodes `step` apart in s, without those whose weight is below `keep`
times the largest. A node is the number itself, or the number and its derivative. None if there is no such rule."""


def _trapezoid(
    log_weight: Callable[[Any], Any], place: Callable[[Any], Any], ends: tuple[float, float], step: float, keep: float
) -> Nodes | None:
    """The rule for `x = place(s)`. None if what lies beyond the ends is not negligible."""
    s = np.arange(ends[0] + 0.382 * step, ends[1], step)
    log_w = log_weight(s)
    kept = log_w > log_w.max() + np.log(keep)
    if kept[0] or kept[-1]:
        return None
    w = np.exp(log_w[kept] - log_w.max())
    return place(s[kept]), w / w.sum()


def _log_cosh(s: Any) -> Any:
    return np.logaddexp(s, -s)


def _log_positive(s: Any) -> Any:
    """log x for `x = exp(s - exp(-s))`, which maps the line to the positive numbers. A power of x is steep at both ends."""
    return s - np.exp(-s)


def _positive(
    log_density: Callable[[Any], Any], size: float, place: Callable[[Any], Any], step: float, keep: float
) -> Nodes | None:
    """A positive number. Its density is a function of its logarithm, and is concentrated to `1 / sqrt(size)` there."""
    log_weight = lambda s: log_density(_log_positive(s)) + _log_positive(s) + np.log1p(np.exp(-s))
    return _trapezoid(log_weight, lambda s: place(_log_positive(s)), (-6.55, 12.0), step / np.sqrt(1 + size / 4), keep)


def _gamma(a: float, place: Callable[[Any], Any]) -> Axis:
    return partial(_positive, lambda y: (a - 1) * y - np.exp(y), a, place)


def _laplace(step: float, keep: float) -> Nodes | None:
    half = _gamma(1.0, np.exp)(step, keep)
    return None if half is None else (np.concatenate([-half[0], half[0]]), np.concatenate([half[1], half[1]]) / 2)


def _logistic(step: float, keep: float) -> Nodes | None:
    log_weight = lambda s: -np.abs(np.sinh(s)) - 2 * np.log1p(np.exp(-np.abs(np.sinh(s)))) + _log_cosh(s)
    return _trapezoid(log_weight, np.sinh, (-6.0, 6.0), step, keep)


def _power_tail(df: float, ends: tuple[float, float], step: float, keep: float) -> Nodes | None:
    """A StudentT, or its positive half if `ends[0]` is 0. `x = sqrt(df) sinh(y)` falls as `1 / cosh(y)^df` in y."""
    y = lambda s: np.pi / 2 * np.sinh(s) if ends[0] else np.pi / 2 * np.exp(s - np.exp(-s))
    log_weight = lambda s: (
        -df * _log_cosh(y(s)) + (_log_cosh(s) if ends[0] else _log_positive(s) + np.log1p(np.exp(-s)))
    )
    return _trapezoid(log_weight, lambda s: np.sqrt(df) * np.sinh(y(s)), (-6.0, 6.0), step / 2, keep)


def _uniform(step: float, keep: float) -> Nodes | None:
    # Beyond 1e-15, numbers next to 1 are rounded to it.
    log_u = lambda s: -np.logaddexp(0.0, -np.pi * np.sinh(s))
    log_weight = lambda s: log_u(s) + log_u(-s) + _log_cosh(s)
    return _trapezoid(log_weight, lambda s: np.exp(log_u(s)), (-4.0, 4.0), step, max(keep, 1e-15))


def _circle(concentration: float, step: float, keep: float) -> Nodes | None:
    angles = np.linspace(-np.pi, np.pi, int(16 / step), endpoint=False)
    w = np.exp(concentration * (np.cos(angles) - 1))
    return angles, w / w.sum()


def _half_normal(step: float, keep: float) -> Nodes | None:
    return _positive(lambda y: -np.exp(2 * y) / 2, 1.0, np.exp, step, keep)


def _normal(step: float, keep: float) -> Nodes | None:
    return _trapezoid(lambda s: -(s**2) / 2, lambda s: s, (-14.0, 14.0), 1.5 * step, keep)


EXPONENTIAL = _gamma(1.0, np.exp)
LINE, HALF = (-1.0, 1.0), (0.0, 1.0)


class NoiseRule(NamedTuple):
    """A distribution of noise: the axis of each number, and the number with its derivative in the parameters."""

    axes: Callable[[Any], Sequence[Axis]]
    live: Callable[[Any, Array], Array] = lambda source, e: e


def _spread(axis: Callable[..., Axis], parameter: Any, source: Any) -> list[Axis]:
    """The axis of each number of the source. They differ in one parameter."""
    return [axis(float(p)) for p in np.broadcast_to(np.asarray(parameter), source.shape()).ravel()]


def _same(axis: Axis, live: Callable[[Any, Array], Array] = lambda source, e: e) -> NoiseRule:
    return NoiseRule(lambda source: [axis] * int(np.prod(source.shape())), live)


def _log_gamma(a: float, step: float, keep: float) -> Nodes | None:
    """The logarithm y of a Gamma, and its derivative in the concentration, which is that of its quantile."""
    made = _gamma(a, lambda y: y)(step, keep)
    if made is None:
        return None
    y, w = made
    # Padded, so that the function is compiled only once.
    x = np.pad(np.exp(np.maximum(y, -60.0)), (0, -len(y) % 1024), constant_values=1.0)
    derivative = np.asarray(lax.random_gamma_grad(jnp.full(x.shape, a), jnp.asarray(x)) / x)[: len(y)]
    near_0 = (digamma(a + 1.0) - y) / a  # from F(x) = x^a / Gamma(a + 1)
    slope = np.where(y < -35.0, near_0, derivative)
    return np.stack([y, slope], -1), w


def _log_gamma_moved(source: Any, e: Array) -> Array:
    (a,) = elementary(source).arrays
    return e[..., 0] + e[..., 1] * (a - lax.stop_gradient(a))


def _student(source: Any, e: Array) -> Array:
    """The derivative in df is nan, because the samples of NumPyro have two numbers of noise, on which it depends."""
    return refuse_where(e, jnp.ones((), bool), jnp.asarray(elementary(source).df) * 1.0, "")


def _scaled(source: Any, e: Array) -> Array:
    return elementary(source).scale * e


def _on_circle(source: Any, t: Array) -> Array:
    q = elementary(source)
    x = lax.stop_gradient(q.loc) + t
    return implicit(q, (x + jnp.pi) % (2 * jnp.pi) - jnp.pi)


NOISE: dict[Any, NoiseRule] = {
    dist.Normal: _same(_normal),
    dist.Logistic: _same(_logistic),
    dist.Laplace: _same(_laplace),
    dist.Gumbel: _same(_gamma(1.0, lambda y: -y)),
    dist.Cauchy: _same(partial(_power_tail, 1.0, LINE)),
    dist.HalfCauchy: _same(partial(_power_tail, 1.0, HALF), _scaled),
    dist.HalfNormal: _same(_half_normal, _scaled),
    dist.Exponential: _same(EXPONENTIAL, lambda source, e: e / elementary(source).rate),
    dist.Uniform: _same(_uniform, lambda source, e: elementary(source).low + (elementary(source).high - elementary(source).low) * e),
    dist.StudentT: NoiseRule(lambda s: _spread(lambda df: partial(_power_tail, df, LINE), elementary(s).df, s), _student),
    dist.VonMises: NoiseRule(lambda s: _spread(lambda k: partial(_circle, k), elementary(s).concentration, s), _on_circle),
    log_gamma: NoiseRule(lambda s: _spread(lambda a: partial(_log_gamma, a), elementary(s).arrays[0], s), _log_gamma_moved),
    jax.random.exponential: _same(EXPONENTIAL),
    jax.random.uniform: _same(_uniform),
}  # fmt: skip
"""By the exact type of the noise, or by its sampler. Truncated distributions have none: their quantile takes a minute to compile."""


def _noise(source: Any) -> NoiseRule | None:
    one = elementary(source)
    if isinstance(one, Drawn):
        return NOISE.get(getattr(one.sampler, "func", one.sampler))
    return NOISE.get(type(one))


def axes_of(source: Any) -> Sequence[Axis] | None:
    """The axis of each number of the noise, in the order of its elements. None if there is no rule."""
    noise = _noise(source)
    return None if noise is None else noise.axes(source)


def place(q: Any, e: Array) -> Array:
    """The sample of `q` at the noise `e`, differentiable in its parameters if they have an `rsample`."""
    if isinstance(q, dist.Independent | dist.ExpandedDistribution):
        return place(q.base_dist, e)
    if isinstance(q, dist.TransformedDistribution) and type(q).rsample is dist.TransformedDistribution.rsample:
        x = place(q.base_dist, e)
        for transform in q.transforms:
            x = transform(x)
        return x
    how = base_noise(q)
    noise = _noise(how.source)
    assert noise is not None
    return implicit(q, how.push(noise.live(how.source, e)))
