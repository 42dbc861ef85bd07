"""Part d6: draws per second of sweeps, compilation included."""

import time
from typing import Any

import jax
import numpy as np

import rgrad
from tests.gpu.context import Context
from tests.gpu.problems import Square, both_estimators, swept_errors
from tests.gpu.report import say

MOST_Z = 6.5  # for the largest of 20,000 means
SLOW = 5e9  # draws per second, before a sweep has been timed


def sweep_rates(ctx: Context) -> None:
    n = ctx.size(1_000, 100)
    plan = ctx.size(
        [
            (1_000, 1_000, False),
            (10_000, 1_000, False),
            (10_000, 1_000, True),
            (10_000, 100_000, True),
            (1_000, 10**6, False),
        ],
        [(20, 50, True)],
    )
    rate, compiling = SLOW, 5.0
    for cells, replicates, common in plan:
        draws = cells * n * replicates
        label = f"{cells:,} cells of {n * replicates:,} draws" + ", noise in common" * common
        if not ctx.enough(ctx.size(compiling, 1) + 1.5 * draws / rate, label):
            continue
        marks: list[float] = []
        began = time.perf_counter()
        axes: dict[str, Any] = {"loc": np.linspace(-3, 3, cells), "n": [n]}
        options: dict[str, Any] = {"key": jax.random.key(1), "replicates": replicates, "common_noise": common}
        mark = lambda done, began=began, marks=marks: marks.append(time.perf_counter() - began)
        try:
            swept = rgrad.sweep(Square(), axes, both_estimators(), progress=mark, **options)
        except Exception as error:
            ctx.failed(label, error)
            continue
        took = time.perf_counter() - began
        compiling, rate = max(2.0, min(compiling, took)), draws / took
        found = swept_errors(swept.moments(), np.asarray(swept.axes["loc"], float), n)
        ctx.row(
            label, **{"seconds, compilation included": took, "progress": marks[:50]}, draws=draws, rate=rate, **found
        )
        ctx.check(label, found["largest z"] < MOST_Z, **found)
        say(f"   {label}: {took:.2f} s, {rate:.3g} draws/s with compilation; largest |z| {found['largest z']:.1f}")
