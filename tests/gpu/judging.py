"""How a gradient estimate is judged: its moments over many calls are compared with what they must be."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

MOST_Z = 5.0  # standard errors
ROUNDING = 2e-6


class Case(NamedTuple):
    """A gradient estimate, and what its moments must be, in the structure of what it returns."""

    draw: Callable[[], Callable[[Any], Any]]
    """Makes the call to measure, which maps a key to the estimate."""
    mean: Any
    variance: Any = None
    """nan if it is not known."""
    below: float | None = None
    """A bound on the largest variance."""


class Sample(NamedTuple):
    """The moments of many calls."""

    mean: Any
    standard_error: Any
    variance: Any
    variance_freedom: Any
    nonfinite: Any


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def sampled(draw: Callable[[Any], Any], key: Any, replicates: int) -> Sample:
    """The moments of many calls that are made at once, summed in 64 bits. It compiles faster than `rgrad.measure`."""
    trees = jax.device_get(jax.jit(jax.vmap(draw))(jax.random.split(key, replicates)))
    x = np.concatenate([np.reshape(leaf, (replicates, -1)).astype(np.float64) for leaf in jax.tree.leaves(trees)], 1)
    away = (x - x.mean(0)) ** 2
    m2, m4 = away.mean(0), (away**2).mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = 2 * replicates / (m4 / m2**2 - 1)
    variance = m2 * replicates / (replicates - 1)
    return Sample(x.mean(0), (variance / replicates) ** 0.5, variance, freedom, (~np.isfinite(x)).sum(0))


def judged(case: Case, moments: Any) -> tuple[bool, dict[str, Any]]:
    """Whether the moments are right, and the numbers behind that."""
    mean, error, variance = flat(moments.mean), flat(moments.standard_error), flat(moments.variance)
    truth = flat(case.mean)
    off = np.maximum(np.abs(mean - truth) - ROUNDING * (1 + np.abs(truth)), 0)
    constant = error < 1e-7 * (1 + np.abs(truth))  # e.g. an exact sum: it may only be off by rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(constant, np.where(off <= 10 * ROUNDING * (1 + np.abs(truth)), 0.0, np.inf), off / error)
        out = {"mean": mean, "truth": truth, "standard error": error, "variance": variance, "z": float(np.max(z))}
        ok = bool(out["z"] < MOST_Z) and not np.any(flat(moments.nonfinite))
        if case.variance is not None:
            want = flat(case.variance)
            z_variance = np.abs(variance / want - 1) / np.sqrt(2 / flat(moments.variance_freedom))
            out |= {"z variance": float(np.nanmax(z_variance)), "true variance": want}
            ok = ok and out["z variance"] < MOST_Z
        if case.below is not None:
            ok = ok and float(variance.max()) < case.below
    return ok, out


def difference(a: Any, b: Any) -> dict[str, float]:
    """The largest difference between two trees, absolute and relative to the largest number; and how many numbers differ."""
    a, b = flat(a), flat(b)
    largest = float(np.max(np.abs(a - b))) if a.size else 0.0
    return {
        "largest": largest,
        "relative": largest / max(float(np.max(np.abs(a))), 1e-30),
        "share that differs": float(np.mean(a != b)),
    }
