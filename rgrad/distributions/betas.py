"""How a sample of a Beta moves with its concentrations if its quantile stays the same.

The logit y of x ~ Beta(a, b) has the density `p(y) = sigma(y)^a sigma(-y)^b / B(a, b)`, with sigma the sigmoid. At a
fixed F(x), `dy/da = -(dF/da) / p(y)`, and a derivative of the density is the density times a score:

    dy/da = -int_-inf^y (log sigma(s) - E[log sigma]) p(s) / p(y) ds

and `dy/db` is the same with `log sigma(-s)`. The density of a logit is log-concave for all concentrations, so the part of
the integral that matters is found by a few Newton steps, and Gauss-Legendre nodes in it are enough. Both integrals use
the same nodes. (The derivative of x itself is `x (1 - x) dy`. A logit is exact also next to 0 and 1.)

Source: Figurnov, Mohamed and Mnih 2018, Implicit reparameterization gradients, https://arxiv.org/abs/1805.08498.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.backend.varying import same_varying

NODES = {32: 24, 64: 48}
"""The number of nodes by the bits of a float."""


def logit_slopes(y: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """The derivatives of the logit y of a Beta(a, b) sample in a and in b, each of the shape of y. All are differentiable."""
    left = y <= jnp.log(a) - jnp.log(b)  # the mode of y
    # Integrate from y away from the mode. Right of it, reflect: the logit -y has the concentrations (b, a).
    t, up, down = jnp.where(left, y, -y), jnp.where(left, a, b), jnp.where(left, b, a)
    here, there = jax.nn.sigmoid(t), jax.nn.sigmoid(-t)
    # log sigma(s) - E[log sigma] at s = t, and the same for log sigma(-s).
    first = jax.nn.log_sigmoid(t) - jnp.where(left, mean_log(a, b), mean_log(b, a))
    second = jax.nn.log_sigmoid(-t) - jnp.where(left, mean_log(b, a), mean_log(a, b))

    def falls(r: Array) -> tuple[Array, Array]:
        """`log sigma(s) - log sigma(t)` and `log sigma(-s) - log sigma(-t)` at `s = t - r`, without cancellation."""
        near = jnp.minimum(r, 80.0)
        log = jnp.log1p(jnp.where(t < 0, here, there) * jnp.expm1(jnp.where(t < 0, -r, near)))
        by = jnp.where(t < 0, log + r, log + (r - near))
        return -by, jnp.where(t < 0, -log, r - by)

    def fall(r: Array) -> Array:
        """`log p(t) - log p(t - r)`: convex in r, from 0 upwards."""
        one, other = falls(r)
        return -(up * one + down * other)

    far = -jnp.log(jnp.finfo(y.dtype).eps) + 2
    end = _upper_end(t, up, down, here, there, far)
    for _ in range(4):  # Newton's method for `fall(end) = far`, which comes from above, because the fall is convex
        s = t - end
        slope = up * jax.nn.sigmoid(-s) - down * jax.nn.sigmoid(s)
        end = end - jnp.maximum(fall(end) - far, 0.0) / slope
    end = jax.lax.stop_gradient(end)  # beyond it, nothing matters
    x, w = (jnp.asarray(c, y.dtype) for c in _legendre(NODES[8 * y.dtype.itemsize]))

    def add(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        r = end * x[i] ** 2  # closer together near t, where a narrow part may be
        one, other = falls(r)
        weight = 2 * w[i] * x[i] * end * jnp.exp(up * one + down * other)
        return sums[0] + weight * (first + one), sums[1] + weight * (second + other)

    zero, *_ = same_varying(jnp.zeros_like(t), t, a, b)  # the carry of a loop must keep its type, also in jax.shard_map
    of_up, of_down = jax.lax.fori_loop(0, len(x), add, (zero, zero), unroll=4)
    return jnp.where(left, -of_up, of_down), jnp.where(left, -of_down, of_up)


def _upper_end(t: Array, up: Array, down: Array, here: Array, there: Array, far: Array) -> Array:
    """An r with `log p(t) - log p(t - r) >= far`, of the order of the smallest."""
    # log sigma(s) <= s and log sigma(-s) <= 0
    by_tail = t + (far - up * jax.nn.log_sigmoid(t) - down * jax.nn.log_sigmoid(-t)) / up
    # Up to a distance of 1, the curvature of log p is at least that at t, divided by e.
    slope, curvature = up * there - down * here, (up + down) * here * there / jnp.e
    slope = jnp.maximum(slope, 0.0)
    by_curvature = 2 * far / (slope + jnp.sqrt(slope**2 + 2 * far * curvature))
    return jnp.where(by_curvature < 1, jnp.minimum(by_curvature, by_tail), by_tail)


def mean_log(a: Array, b: Array) -> Array:
    """`E[log x] = digamma(a) - digamma(a + b)` for x ~ Beta(a, b), without cancellation for b much smaller than a."""
    steps = np.arange(8)
    sums = sum((b / ((a + k) * (a + b + k)) for k in steps), jnp.zeros_like(a + b))
    # The asymptotic series of both, subtracted term by term.
    u, v = 1 / (a + len(steps)), 1 / (a + b + len(steps))
    difference, total = b * u * v, u + v
    u, v = u * u, v * v
    series, powers, v_to_k = jnp.zeros_like(u), jnp.ones_like(u), jnp.ones_like(v)  # powers: (u^k - v^k) / (u - v)
    for c in (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760):
        series = series + c * powers
        v_to_k = v_to_k * v
        powers = powers * u + v_to_k
    return -sums - jnp.log1p(b / (a + len(steps))) - difference / 2 - difference * total * series


def _legendre(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(number)
    return (x + 1) / 2, w / 2
