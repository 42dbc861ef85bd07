"""Both gradients of E[r(z)], z ~ N(mu, sigma^2): exact variances, and measurements with the estimators of rgrad."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.common.progress import Advance
from experiments.crossover.cells import (
    Function,
    FunctionFamily,
    MapCells,
    at,
    example_cells,
    functions,
    map_cells,
    phi_cells,
)
from experiments.crossover.exact import ESTIMATORS, Exact, exact, sine_variances

FREEDOM = 2_000  # with fewer degrees of freedom, a variance is too often off by 5 standard errors
PLACE = ("part", "function", "r", "knob", "value", "mu", "sigma", "phi", "dimension", "parameter")
SUMS_SHARE = 8  # the sums over D coordinates use this many times fewer replicates, because each costs D times as much


def estimates(
    r: Callable[[Array], Array],
    mu: Callable[[Array], Array],
    sigma: Callable[[Array], Array],
    phi: Any,
    key: Array,
    n: int = 1,
    constant: Any = 0.0,
) -> dict[str, Array]:
    """Both Monte Carlo estimates of `d/d phi E[r(z)]`, z ~ N(mu(phi), sigma(phi)^2), from the same n samples, per call.

    `score_function` is E1, the mean of `r(z) d log q(z; phi)/d phi`; `best_constant` is the same with
    `r(z) - constant`. `reparameterized` is E2, the mean of `r'(z) dz/d phi`, with `z = mu(phi) + sigma(phi) eps`.
    """

    def mean_r(phi: Array, estimator: rgrad.Estimator) -> Array:
        return rgrad.expect(r, dist.Normal(mu(phi), sigma(phi)), key, n, estimator)

    rules = (rgrad.score_function, partial(rgrad.score_function, baseline=constant), rgrad.reparameterized)
    return {name: jax.grad(mean_r)(phi, rule) for name, rule in zip(ESTIMATORS, rules, strict=True)}


def measure_cells(
    function: Function,
    family: FunctionFamily,
    cells: list[MapCells],
    constants: list[np.ndarray],
    key: Array,
    count: int,
) -> list[rgrad.Moments]:
    """Moments of one-sample gradients, in cells of the map and in cells along phi. One program for all."""
    floats = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, float), tree)
    line = lambda value, slope: lambda t: value + slope * t

    def in_map(cell: MapCells, constant: Array, key: Array) -> dict[str, Array]:
        mu, sigma = line(cell.mu, cell.dmu), line(cell.sigma, cell.dsigma)
        return estimates(lambda z: function.r(z, cell.knob), mu, sigma, 0.0, key, constant=constant)

    def in_phi(cell: MapCells, constant: Array, key: Array) -> dict[str, Array]:
        return estimates(lambda z: function.r(z, cell.knob), *family, cell.phi, key, constant=constant)

    (one, c_one), (other, c_other) = (floats(pair) for pair in zip(cells, constants, strict=True))
    every = lambda f: jax.vmap(f, (0, 0, None))
    draw = lambda key: [every(in_map)(one, c_one, key), every(in_phi)(other, c_other, key)]
    moments = rgrad.measure(draw, key, count)
    return [rgrad.Moments(moments.count, *(tree[i] for tree in moments[1:])) for i in range(2)]


def measure_sums(
    function: Function, cell: MapCells, dimensions: np.ndarray, constants: np.ndarray, key: Array, count: int
) -> rgrad.Moments:
    """Moments of d/d mu of one coordinate, for the sum of r over the first D coordinates. Shape `(dimensions,)`."""
    most = int(dimensions.max())
    mu, sigma, knob = (jnp.asarray(x, float) for x in (cell.mu, cell.sigma, cell.knob))

    def gradients(dimension: Array, constant: Array, key: Array) -> dict[str, Array]:
        wanted = jnp.arange(most) < dimension  # one program for every D

        def mean_r(first: Array, estimator: rgrad.Estimator) -> Array:
            q = dist.Normal(jnp.full(most, mu).at[0].set(first), sigma).to_event(1)
            return rgrad.expect(lambda z: jnp.sum(wanted * function.r(z, knob)), q, key, 1, estimator)

        rules = (rgrad.score_function, partial(rgrad.score_function, baseline=constant), rgrad.reparameterized)
        return {name: jax.grad(mean_r)(mu, rule) for name, rule in zip(ESTIMATORS, rules, strict=True)}

    draw = lambda key: jax.vmap(gradients, (0, 0, None))(jnp.asarray(dimensions), jnp.asarray(constants, float), key)
    return rgrad.measure(draw, key, count)


class Found(NamedTuple):
    rows: list[dict[str, Any]]
    """One row for each place and parameter, with the variances per sample."""
    checks: list[dict[str, Any]]
    """One row for each measured place, parameter and estimator."""
    reasons: list[dict[str, Any]]
    closed_form_error: float | None
    """The largest relative error of quadrature in the map of the sine. None without a sine."""


def measured_and_exact(settings: Any, family: FunctionFamily, key: Array, advance: Advance) -> Found:
    """Runs the whole study, function by function."""
    whole = Found([], [], [], None)
    for i, function in enumerate(functions(settings)):
        found = _of_function(settings, function, family, jax.random.fold_in(key, i), advance)
        for all_lines, lines in zip(whole[:3], found[:3], strict=True):
            all_lines.extend(lines)
        whole = whole._replace(closed_form_error=found.closed_form_error or whole.closed_form_error)
    return whole


def _of_function(settings: Any, function: Function, family: FunctionFamily, key: Array, advance: Advance) -> Found:
    parts = (map_cells(function, settings), phi_cells(function, family, settings), example_cells(function, settings))
    every = MapCells(*(np.concatenate([np.ravel(x) for x in xs]) for xs in zip(*parts, strict=True)))
    of_map, of_phi, of_examples = (part.knob.size for part in parts)
    truth = exact(function, every)
    rows = [_row("map" if i < of_map else "phi", function, at(every, i), at(truth, i)) for i in range(of_map + of_phi)]
    reasons = [_reason(function, at(every, i), at(truth, i)) for i in range(-of_examples, 0)]
    advance(0.4)

    # Measure at a few places, and wherever quadrature fails.
    wanted = np.concatenate([_lattice(part.knob.shape, settings.checked) for part in parts[:2]])
    places = np.flatnonzero(wanted | ~truth.resolved[: wanted.size])
    chosen = (places[places < of_map], places[places >= of_map])
    constants = np.where(truth.resolved, truth.constant, 0.0)
    for_cells, for_sums = jax.random.split(key)
    measured = measure_cells(function, family, [at(every, i) for i in chosen], [constants[i] for i in chosen], for_cells,
                             settings.replicates)  # fmt: skip
    checks = []
    for i, moments in zip(chosen, measured, strict=True):
        freedom = 2 * settings.replicates / np.maximum(truth.kurtosis[i] - 1, 1e-9)
        checks += _checks([rows[j] for j in i], moments, freedom)
    advance(0.3)

    last = (at(every, -1), at(truth, -1))
    sums, constants = _sums(function, *last, settings.dimensions)
    places = np.unique([*_spread(len(sums), min(settings.checked, 2)), np.argmax(settings.dimensions)])
    dimensions = np.array(settings.dimensions)[places]
    moments = measure_sums(
        function, last[0], dimensions, constants[places], for_sums, settings.replicates // SUMS_SHARE
    )
    freedom = np.stack([moments.variance_freedom[e] for e in ESTIMATORS], -1)
    checks += _checks([sums[i] for i in places], moments, freedom)
    advance(0.3)
    return Found(rows + sums, checks, reasons, _closed_form_error(parts[0], truth) if function.name == "sine" else None)


def _row(part: str, function: Function, cell: MapCells, truth: Exact) -> dict[str, Any]:
    """The exact variances, or nan, which `_checks` replaces with measured ones."""
    variances = {e: float(getattr(truth, e)) if truth.resolved else np.nan for e in ESTIMATORS}
    source = "infinite" if np.isinf(variances["reparameterized"]) else "quadrature" if truth.resolved else "measured"
    return {
        "part": part, "function": function.name, "r": function.text, "knob": function.knob, "value": float(cell.knob),
        "mu": float(cell.mu), "sigma": float(cell.sigma), "phi": float(cell.phi) if part == "phi" else None, "dimension": 1,
        "parameter": "phi" if part == "phi" else "mu" if cell.dmu == 1 else "sigma",
        "mean": float(truth.mean) if truth.resolved else np.nan, **variances, **_ratios(variances), "source": source,
    }  # fmt: skip


def _ratios(variances: Mapping[str, float]) -> dict[str, float]:
    """log10 of the variance over that of the reparameterized gradient: -inf if the latter is infinite, inf if it is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log = {e: float(np.log10(variances[e])) for e in ESTIMATORS}
        return {f"log10_ratio{end}": float(np.subtract(log[e], log["reparameterized"]))
                for e, end in (("score_function", ""), ("best_constant", "_best_constant"))}  # fmt: skip


def _sums(
    function: Function, cell: MapCells, truth: Exact, dimensions: tuple[int, ...]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A row for each D, and the best constants: d/d mu_1 of `E[r(z_1) + R]`, where R is the sum over the other coordinates.

    R is independent of the score s of z_1, so `E[(r + R)^2 s^2] = E[r^2 s^2] + 2 E[R] E[r s^2] + E[R^2] E[s^2]`. The
    reparameterized gradient does not depend on R.
    """
    rows, constants, information = [], [], 1 / cell.sigma**2
    for dimension in dimensions:
        mean = (dimension - 1) * truth.r_mean
        variance = (dimension - 1) * (truth.r_square - truth.r_mean**2)
        row = _row("dimension", function, cell, truth) | {"dimension": dimension}
        row["score_function"] += float((2 * mean * truth.constant + mean**2 + variance) * information)
        row["best_constant"] += float(variance * information)
        rows.append(row | _ratios(row))
        constants.append(truth.constant + mean if truth.resolved else 0.0)
    return rows, np.array(constants)


def _checks(rows: list[dict[str, Any]], moments: rgrad.Moments, freedom: np.ndarray) -> list[dict[str, Any]]:
    """Compares rows with measurements. A row without a quadrature result takes the measured values.

    z is the difference in standard errors. They follow from the exact variance and its degrees of freedom.
    """
    checks, (low, high) = [], moments.variance_interval()
    # If the kurtosis is 1 (r' of |z| is 1 or -1), the first-order formula says that the variance is known almost
    # exactly. So the degrees of freedom are limited.
    freedom = np.clip(freedom, 0, 200 * int(moments.count))
    for i, row in enumerate(rows):
        for j, e in enumerate(ESTIMATORS):
            mean, variance, error = (float(x[e][i]) for x in (moments.mean, moments.variance, moments.standard_error))
            judged = row["source"] != "measured" and 0 < row[e] < np.inf and freedom[i, j] >= FREEDOM
            # 32-bit results may be off by a millionth of the mean.
            z_mean = (
                (mean - row["mean"]) / np.hypot((row[e] / moments.count) ** 0.5, 1e-6 * row["mean"]) if judged else None
            )
            z_variance = (variance / row[e] - 1) / (2 / freedom[i, j]) ** 0.5 if judged else None
            checks.append({
                **{k: row[k] for k in PLACE},
                "estimator": e, "exact_mean": row["mean"], "exact_variance": row[e], "mean": mean, "mean_error": error, "variance": variance,
                "variance_low": float(low[e][i]), "variance_high": float(high[e][i]), "judged": bool(judged),
                "z_mean": z_mean, "z_variance": z_variance,
            })  # fmt: skip
        if row["source"] == "measured":
            one, _, other = (float(moments.variance[e][i]) for e in ESTIMATORS)
            row |= {"mean": float(moments.mean["reparameterized"][i]), "score_function": one, "reparameterized": other}
            row |= _ratios(row)
    return checks


def _reason(function: Function, cell: MapCells, truth: Exact) -> dict[str, Any]:
    """`Var[r s] - Var[r'] = E[r^2]/sigma^2 + E[r'^2] + 2 E[r r'']`, from two integrations by parts (Stein's identity for r^2)."""
    row = _row("reason", function, cell, truth)
    numbers = {
        "r_square": truth.r_square / cell.sigma**2, "slope_square": truth.slope_square,
        "twice_r_curvature": 2 * truth.r_curvature if np.isfinite(truth.slope_square) else np.nan,
    }  # fmt: skip
    return row | {name: float(x) if truth.resolved else np.nan for name, x in numbers.items()}


def _closed_form_error(cells: MapCells, truth: Exact) -> float | None:
    """The largest relative error of the quadrature against the closed forms, over the cells that use it."""
    score, path = (x.ravel() for x in sine_variances(cells))
    used = truth.resolved[: score.size]
    off = [np.abs(getattr(truth, e)[: score.size] / known - 1)[used]
           for e, known in (("score_function", score), ("reparameterized", path))]  # fmt: skip
    return float(np.max(off)) if used.any() else None


def _lattice(shape: tuple[int, ...], checked: int) -> np.ndarray:
    """Flat indices of the places to measure: about `checked`, evenly spaced, along each axis.

    If there are three axes, every index of the first one is measured.
    """
    axes = [np.arange(n) if len(shape) == 3 and i == 0 else _spread(n, checked) for i, n in enumerate(shape)]
    chosen = np.zeros(shape, bool)
    chosen[np.ix_(*axes)] = True
    return chosen.ravel()


def _spread(n: int, checked: int) -> np.ndarray:
    """The indices of `checked` of n places: the middles of `checked` equal parts."""
    return np.unique(((np.arange(min(n, checked)) + 0.5) * n / min(n, checked)).astype(int))
