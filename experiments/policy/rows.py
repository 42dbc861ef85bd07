"""The rows of the table of results: the same columns for all three parts."""

from typing import Any

import numpy as np

Row = dict[str, Any]
COLUMNS = (
    "part", "estimator", "penalty", "unbiased", "bias", "bias_low", "bias_high", "angle", "factor", "variance", "variance_low",
    "variance_high", "signal_to_noise", "measured_z", "holds", "end", "end_error", "end_objective", "end_objective_error",
    "end_divergence", "reached",
)  # fmt: skip
SURE = 6.0  # standard errors. Hundreds of numbers are compared in a run; a false alarm is rarer than 1e-6
EXACT = 1e-9  # relative bias that rounding in 64 bits explains


def make_row(**known: Any) -> Row:
    """A row with these columns, and None in the others."""
    if unknown := set(known) - set(COLUMNS):
        raise KeyError(f"no such column: {unknown}")
    return {name: known.get(name) for name in COLUMNS}


def compared(mean: np.ndarray, truth: np.ndarray) -> Row:
    """The bias relative to the true gradient, the angle in degrees, and the factor along the true gradient."""
    norm = np.linalg.norm
    factor = float(mean @ truth / (truth @ truth))
    across = norm(mean - factor * truth) / norm(truth)
    angle = float(np.degrees(np.arctan2(across, factor)))
    return {"bias": float(norm(mean - truth) / norm(truth)), "angle": angle, "factor": factor}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over runs and its standard error."""
    x = np.asarray(values, float)
    return float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5)


def directions(truth: np.ndarray) -> np.ndarray:
    """Unit vectors along which a mean gradient is compared: the true gradient and seven random ones. Shape `(d, 8)`.

    Single elements are not compared: some belong to what is seen so rarely that their standard errors are not reliable.
    """
    some = np.random.default_rng(0).normal(size=(len(truth), 7))
    every = np.concatenate([truth[:, None], some], axis=1)
    return every / np.linalg.norm(every, axis=0)


def largest_z(mean: Any, error: Any, exact: np.ndarray) -> float:
    """The largest difference, in standard errors. Differences that rounding in 32 bits can explain do not count."""
    off = np.abs(np.asarray(mean, np.float64) - exact)
    off = np.maximum(off - 1e-5 * np.abs(exact).max(), 0.0)
    return float((off / np.maximum(np.asarray(error, np.float64), 1e-12)).max())
