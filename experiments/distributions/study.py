"""Runs every estimator on one row of the distribution table, and gives a verdict."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.distributions.distribution import validation_enabled

import rgrad
from experiments.distributions.table import Row, rows
from experiments.distributions.truth import gradient
from rgrad.distributions import name_of

ESTIMATORS = {
    name: row.estimator
    for name, row in rgrad.ESTIMATORS.items()
    if row.compared and not row.biased and name != "reparameterized+antithetic"
}
REFUSALS = (TypeError, ValueError, NotImplementedError)
Z = 6.5  # with 1,500 normal means, 1e-7 false alarms are expected in a run. Heavy tails need such a large limit
ROUNDING = 3e-4  # relative to the truth and to 1, for 32-bit floats


class Cell(NamedTuple):
    """The result of one estimator on one row."""

    row: str
    estimator: str
    verdict: str
    """ok, refused, nan, noisy (right, but too noisy to see a bias of a fifth), WRONG, or CRASHED."""
    detail: str


def cells_of(name: str, num_samples: int, replicates: int, seed: int) -> list[Cell]:
    """The cells of the row with this name. It takes the name because a row cannot be sent to another process."""
    with jax.enable_x64(True):
        (row,) = (row for row in rows() if row.name == name)
    with validation_enabled(False):
        return cells(row, num_samples, replicates, seed)


def cells(row: Row, samples: int, replicates: int, seed: int = 0) -> list[Cell]:
    """A cell for each estimator, from one compiled program for all of them."""
    theta = np.asarray(row.theta, np.float32)
    try:
        with jax.enable_x64(True):
            truth = gradient(row.expectation, row.theta)
    except ArithmeticError as error:
        return [Cell(row.name, "truth", "CRASHED", str(error))]
    kept: dict[str, Any] = {}
    found: list[Cell] = []
    for name, estimator in ESTIMATORS.items():
        estimate = _estimate(row, estimator, samples)
        try:
            jax.eval_shape(estimate, theta, jax.random.key(0))
            kept[name] = estimate
        except REFUSALS as error:
            found.append(Cell(row.name, name, *_of_refusal(name, row, theta, error)))
        except Exception as error:
            found.append(Cell(row.name, name, "CRASHED", f"{type(error).__name__}: {error}"))
    if kept:
        found += _measured(row, kept, theta, truth, replicates, seed)
    return found


def _estimate(row: Row, estimator: Any, n: int) -> Callable[[Any, Any], Any]:
    return lambda t, key: jax.grad(lambda t: rgrad.expect(row.f, row.q(t), key, n, estimator))(t)


def _of_refusal(name: str, row: Row, theta: Any, error: Exception) -> tuple[str, str]:
    """Whether the error is a refusal: it names the estimator or `expect`, and the distribution or its parameter."""
    text, own = " ".join(str(error).split()), [*name.split("+"), "expect"]
    said = any(part in text for part in own)
    of = {row.name.split("(")[0], name_of(row.q(theta)), name_of(getattr(row.q(theta), "base_dist", row.q(theta)))}
    of |= {part.removesuffix("Probs").removesuffix("Logits") for part in of}
    named = said and (any(part in text for part in of if part) or "has no rule for the parameter" in text)
    return ("refused", text) if named else ("CRASHED", f"{type(error).__name__}: {text}")


def _measured(row: Row, kept: Mapping[str, Any], theta: Any, truth: Any, replicates: int, seed: int) -> list[Cell]:
    draw = lambda key: {name: estimate(theta, key) for name, estimate in kept.items()}
    try:
        moments = rgrad.measure(draw, jax.random.key(seed), replicates)
    except Exception as error:
        return [
            Cell(row.name, name, "CRASHED", f"{type(error).__name__}: {' '.join(str(error).split())}") for name in kept
        ]
    return [
        Cell(
            row.name,
            name,
            *_judged(truth, *(np.asarray(m[name], float) for m in (moments.mean, moments.standard_error))),
        )
        for name in kept
    ]


def _judged(truth: Any, mean: Any, error: Any) -> tuple[str, str]:
    said = f"{_short(mean)} +- {_short(error)}, expected {_short(truth)}"
    if np.any(~np.isfinite(mean)):
        return "nan", said
    scale = ROUNDING * (1 + np.abs(truth))
    if np.any(np.abs(mean - truth) > Z * error + scale):
        return "WRONG", said
    noisy = np.any(Z * error > 0.2 * np.maximum(np.abs(truth), 0.2))
    return ("noisy" if noisy else "ok"), said


def _short(x: Any) -> str:
    return np.array2string(np.asarray(x), precision=4, suppress_small=True, separator=", ")
