"""The exact variances of both gradients of E[r(z)], z ~ N(mu, sigma^2), by quadrature in 64 bits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import norm

from experiments.crossover.cells import Function, MapCells, at

ESTIMATORS = ("score_function", "best_constant", "reparameterized")
BATCH = 16  # cells integrated at once
MOST_NODES = 2**17
COARSER = 0.71  # ratio of the nodes of a second rule to those of the first
TOLERANCE = 1e-9  # largest difference between the two rules, relative to the variance


class Exact(NamedTuple):
    """Moments over z of one-sample gradients, as arrays in the shape of the cells."""

    mean: Any
    """The gradient."""
    score_function: Any
    """Variance of r(z) s, with s = d log q(z)/d phi."""
    best_constant: Any
    """Variance of (r(z) - c) s."""
    reparameterized: Any
    """Variance of r'(z) dz/d phi."""
    kurtosis: Any
    """The kurtosis of the three gradients, along the last axis."""
    constant: Any
    """c = E[r s^2] / E[s^2], which minimises that variance."""
    r_mean: Any
    r_square: Any
    slope_square: Any
    r_curvature: Any
    """E[r], E[r^2], E[r'^2] and E[r r'']."""
    resolved: Any
    """Whether two rules and both gradients agree. If not, the other fields are not reliable."""


Rule = Callable[[Array, Array], tuple[Any, Any, Any]]


def trapezoid(nodes: int) -> Rule:
    """`(mu, sigma) -> (z, eps, weights)`: equidistant in eps. Converges exponentially for an analytic r."""
    eps = np.linspace(-14, 14, nodes)
    weight = np.exp(-(eps**2) / 2)
    weight /= weight.sum()
    return lambda mu, sigma: (mu + sigma * eps, eps, weight)


def half_lines(step: float) -> Rule:
    """The same for an r with a break at z = 0: `z = +- sigma exp(t - exp(-t))` with equidistant t, down to |z| = 1e-175.

    Source: Takahasi and Mori 1974.
    """
    t = np.arange(-6, 5, step)
    x = np.exp(t - np.exp(-t))
    x, dx = np.concatenate([-x, x]), np.tile(step * x * (1 + np.exp(-t)), 2)

    def place(mu: Array, sigma: Array) -> tuple[Any, Any, Any]:
        eps = x - mu / sigma
        return sigma * x, eps, dx * norm.pdf(eps)

    return place


def both(fine: Rule, coarse: Rule) -> Rule:
    """The nodes of both rules, and weights of shape `(2, nodes)`, a row for each rule. A function is evaluated once for both."""

    def place(mu: Array, sigma: Array) -> tuple[Any, Any, Any]:
        (z, eps, weight), (other_z, other_eps, other) = fine(mu, sigma), coarse(mu, sigma)
        rows = (jnp.pad(weight, (0, other.size)), jnp.pad(other, (weight.size, 0)))
        return jnp.concatenate([z, other_z]), jnp.concatenate([eps, other_eps]), jnp.stack(rows)

    return place


def exact(function: Function, cells: MapCells) -> Exact:
    """The exact moments in each cell, in 64 bits, with one program for all."""
    if function.breaks:
        rule = both(half_lines(1 / 256), half_lines(1 / 256 / COARSER))
    else:
        # The kurtosis needs fourth powers, which oscillate four times as fast. The Fourier transform of a Gaussian
        # vanishes beyond 16.
        fastest = 4 * np.max(np.abs(cells.knob * cells.sigma)) if function.oscillates else 0.0
        nodes = int(min(MOST_NODES, 28 * (fastest + 48) / (2 * np.pi)))
        rule = both(trapezoid(nodes), trapezoid(int(COARSER * nodes)))

    def of_cell(cell: MapCells) -> Exact:
        by_rule = _moments(function, rule, cell)
        variance = jnp.stack([getattr(by_rule, e) for e in ESTIMATORS])
        agree = jnp.abs(variance[:, 0] - variance[:, 1]) <= TOLERANCE * variance[:, 0]
        fine = at(by_rule, 0)
        return fine._replace(resolved=fine.resolved & agree)

    with jax.enable_x64(True):
        flat = MapCells(*(jnp.asarray(np.ravel(x), float) for x in cells))
        found = jax.tree.map(np.asarray, jax.jit(lambda flat: jax.lax.map(of_cell, flat, batch_size=BATCH))(flat))

    # Quadrature cannot detect an infinite moment: r' dz/dphi is not square integrable at z = 0, unless dz/dphi is 0 there.
    moves = np.ravel(cells.dmu * cells.sigma - cells.dsigma * cells.mu != 0)
    variance, fourth = (~function.finite(np.ravel(cells.knob), order) & moves for order in (2, 4))
    path = np.array(ESTIMATORS) == "reparameterized"
    found = found._replace(
        reparameterized=np.where(variance, np.inf, found.reparameterized),
        slope_square=np.where(function.finite(np.ravel(cells.knob), 2), found.slope_square, np.inf),
        kurtosis=np.where(fourth[:, None] & path, np.inf, found.kurtosis),
        resolved=np.all(found.resolved | (variance[:, None] & path), -1),
    )
    return jax.tree.map(lambda x: x.reshape(np.shape(cells.knob) + x.shape[1:]), found)


def _moments(function: Function, rule: Rule, cell: MapCells) -> Exact:
    """The moments in one cell by each of the two rules, on the first axis; and `resolved`, whether each rule passes its own checks."""
    z, eps, weights = rule(cell.mu, cell.sigma)
    expect = lambda x: jnp.sum(weights * x, 1)
    of = lambda x: function.r(x, cell.knob)
    r, slope, curvature = (jax.vmap(f)(z) for f in (of, jax.grad(of), jax.grad(jax.grad(of))))
    score = (cell.dmu * eps + cell.dsigma * (eps**2 - 1)) / cell.sigma
    path = slope * (cell.dmu + cell.dsigma * eps)
    constant = expect(r * score**2) / expect(score**2)
    mean, other = expect(r * score), expect(path)

    def variance_and_kurtosis(x: Array) -> tuple[Array, Array]:
        square = (x - mean[:, None]) ** 2
        variance = jnp.where(expect(square) <= 1e-24 * mean**2, 0.0, expect(square))  # rounding of a zero
        return variance, expect(square**2) / variance**2

    gradients = (r * score, (r - constant[:, None]) * score, path)
    (plain, k1), (best, k2), (pathwise, k3) = map(variance_and_kurtosis, gradients)
    whole = jnp.abs(expect(jnp.ones_like(z)) - 1) <= TOLERANCE
    same = jnp.abs(mean - other) <= TOLERANCE * (jnp.abs(mean) + plain**0.5)
    return Exact(
        mean=jnp.where(mean**2 <= 1e-24 * plain, 0.0, mean), score_function=plain, best_constant=best,
        reparameterized=pathwise, kurtosis=jnp.stack([k1, k2, k3], -1), constant=constant, r_mean=expect(r),
        r_square=expect(r**2), slope_square=expect(slope**2), r_curvature=expect(r * curvature),
        resolved=jnp.stack([whole, whole, whole & same], -1),
    )  # fmt: skip


def sine_variances(cells: MapCells) -> tuple[np.ndarray, np.ndarray]:
    """Variances per sample for r = sin(omega z), of REINFORCE and the reparameterized gradient, for d/d mu or d/d sigma.

    With t = (omega sigma)^2 and C = cos(2 omega mu), from `E[cos(k eps) He_n(eps)] = Re(i^n) k^n exp(-k^2/2)`:

        d/d mu:     (1 - C (1 - 4 t) e^(-2 t) - t (1 + C) e^(-t)) / (2 sigma^2)
                    omega^2 (1 - e^(-t)) (1 - C e^(-t)) / 2
        d/d sigma:  (2 - C (16 t^2 - 16 t + 2) e^(-2 t) - t^2 (1 - C) e^(-t)) / (2 sigma^2)
                    omega^2 (1 + C (1 - 4 t) e^(-2 t) - t (1 - C) e^(-t)) / 2
    """
    t, C = (cells.knob * cells.sigma) ** 2, np.cos(2 * cells.knob * cells.mu)
    e, e2 = np.exp(-t), np.exp(-2 * t)
    score = np.where(
        cells.dmu == 1,
        1 - C * (1 - 4 * t) * e2 - t * (1 + C) * e,
        2 - C * (16 * t**2 - 16 * t + 2) * e2 - t**2 * (1 - C) * e,
    )
    path = np.where(cells.dmu == 1, -np.expm1(-t) * (1 - C * e), 1 + C * (1 - 4 * t) * e2 - t * (1 - C) * e)
    return score / (2 * cells.sigma**2), cells.knob**2 * path / 2
