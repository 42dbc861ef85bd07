"""The true gradients of the distribution table, in 64 bits: from quadrature, a sum over the support, or a closed form.

No derivative of a density is used. The gradient comes from differences of the expectation at shifted parameters.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STEP = 1e-3  # step of the differences. Their error is of the order of its fourth power
INF = np.inf


def bent(x: Any) -> Any:
    """A smooth, bounded test function: neither even nor odd, and not 0 at 0, where distributions have atoms."""
    return 0.3 + jnp.tanh(x / 2) + 0.5 * jnp.tanh(x / 2) ** 2


def of_circle(x: Any) -> Any:
    return jnp.cos(x) + 0.5 * jnp.sin(x)


def gradient(expectation: Callable[[Any], Any], theta: Any) -> np.ndarray[Any, Any]:
    """The gradient of `expectation` at theta, shape `(J,)`, from central differences of fourth order."""
    theta = np.asarray(theta, float)
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    slope = lambda e: sum(w * np.asarray(expectation(theta + k * STEP * e)) for k, w in weights.items()) / STEP
    return np.array([slope(e) for e in np.eye(theta.size)]).reshape(theta.shape)


def integral(base: Callable[[Any], Any], g: Callable[[Any], Any], breaks: Any) -> Callable[[Any], float]:
    """`theta -> sum_i w_i E[g(x_i)]` for a continuous scalar, or for independent coordinates.

    Args:
        base: maps theta to a distribution with event shape `()`. Its batch axes are the coordinates.
        breaks: the ends of the support and every kink of the density, in order, or a function of theta that returns them.
    """

    def expectation(theta: Any) -> Any:
        q = base(theta)
        at = breaks(theta) if callable(breaks) else breaks
        x, dx = nodes(at)
        where = x.reshape(-1, *(1,) * len(q.batch_shape))
        density = jnp.exp(q.log_prob(where)).reshape(len(x), -1) * dx[:, None]
        density = jnp.where(jnp.isfinite(density), density, 0.0)  # a node may round to an end of the support
        values = (density * g(where).reshape(len(x), -1)).sum(0)
        return values @ weights(q.batch_shape), density.sum(0)

    return _checked(expectation)


def total(base: Callable[[Any], Any], g: Callable[[Any], Any], largest: int = 400) -> Callable[[Any], float]:
    """The same for integers from 0 to `largest`."""

    def expectation(theta: Any) -> Any:
        q = base(theta)
        x = jnp.arange(largest + 1).reshape(-1, *(1,) * len(q.batch_shape))
        log_p = jnp.where(q.support(x), q.log_prob(x), -jnp.inf)
        p = jnp.exp(log_p).reshape(largest + 1, -1)
        return (p * g(x * 1.0).reshape(largest + 1, -1)).sum(0) @ weights(q.batch_shape), p.sum(0)

    return _checked(expectation)


def weights(batch_shape: Sequence[int]) -> Any:
    """The weight of each coordinate in the objective. All differ, so a test detects exchanged coordinates."""
    size = int(np.prod(batch_shape))
    return jnp.array([1.0, -0.5, 0.7, 0.3][:size])


def _checked(expectation: Callable[[Any], Any]) -> Callable[[Any], float]:
    """Raises ArithmeticError if the density does not integrate to 1, because the computed truth would be wrong."""
    compiled = jax.jit(expectation)

    def call(theta: Any) -> float:
        value, mass = compiled(jnp.asarray(theta, float))
        if not np.all(np.abs(np.asarray(mass) - 1) < 1e-6):
            raise ArithmeticError(f"the density integrates to {np.asarray(mass)}, not to 1")
        return float(value)

    return call


def nodes(breaks: Sequence[Any], half: int = 250) -> tuple[Any, Any]:
    """Nodes and weights of double-exponential quadrature on each interval between breaks."""
    t = jnp.linspace(-4.0, 4.0, 2 * half + 1)
    u, du = jnp.pi / 2 * jnp.sinh(t), jnp.pi / 2 * jnp.cosh(t) * (t[1] - t[0])
    x, dx = [], []
    for low, high in pairwise(breaks):
        ends = [isinstance(end, float) and np.isinf(end) for end in (low, high)]
        if not any(ends):
            x.append(low + (high - low) * jax.nn.sigmoid(2 * u))
            dx.append((high - low) * 2 * jax.nn.sigmoid(2 * u) * jax.nn.sigmoid(-2 * u) * du)
        else:
            x.append(low + jnp.exp(u) if ends[1] else high - jnp.exp(u))
            dx.append(jnp.exp(u) * du)
    return jnp.concatenate(x), jnp.concatenate(dx)
