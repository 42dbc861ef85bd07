"""Part b6: sweep, fit and compare."""

from functools import partial
from typing import Any

import jax
import numpy as np

import rgrad
from tests.gpu.context import Context
from tests.gpu.judging import difference
from tests.gpu.problems import Square, Step, both_estimators, fits, fitted_right, swept_errors
from tests.gpu.report import say

MOST_Z = 5.0
N = 10
LOCS = np.linspace(-2.5, 3.0, 12)
AXES = {"loc": LOCS, "n": [N]}


def check_larger(ctx: Context) -> None:
    replicates = ctx.size(20_000, 2_000)

    def cells(common: bool) -> tuple[bool, dict[str, Any]]:
        options: dict[str, Any] = {"key": jax.random.key(1), "replicates": replicates, "common_noise": common}
        swept = rgrad.sweep(Square(), AXES, both_estimators(), **options)
        found = swept_errors(swept.moments(), np.asarray(swept.axes["loc"], float), N)
        near = found["largest relative error of a variance"] < ctx.size(0.15, 0.5)
        return found["largest z"] < MOST_Z and near, found

    def fitted() -> tuple[bool, dict[str, Any]]:
        found = fits(ctx.size(200, 50), ctx.size(500, 300), True)(0)
        return fitted_right(found, 0.15), found

    jobs: dict[str, Any] = {
        "sweep, 12 cells": partial(cells, False),
        "sweep, 12 cells, common noise": partial(cells, True),
        "sweep: the same cells on the CPU": on_the_cpu,
        "fit of mu and sigma": fitted,
    }
    ctx.checks_in_threads({name: jobs[name] for name in ctx.size(list(jobs), list(jobs)[2:])})
    if ctx.enough(5, "compare"):
        compared(ctx)


def on_the_cpu() -> tuple[bool, dict[str, Any]]:
    options: dict[str, Any] = {"key": jax.random.key(2), "replicates": 500}
    here = rgrad.sweep(Square(), AXES, both_estimators(), **options).moments()
    there = rgrad.sweep(Square(), AXES, both_estimators(), devices=[jax.devices("cpu")[0]], **options).moments()
    found = {what: difference(getattr(here, what), getattr(there, what))["relative"] for what in ("mean", "variance")}
    return max(found.values()) < 1e-5, found


def compared(ctx: Context) -> None:
    """`compare` finds that reparameterization is biased for a step, and that the others are not."""
    names = ("reparameterized", "score_function", *ctx.size(("measure_valued",), ()))
    estimators = {name: getattr(rgrad, name) for name in names}
    found = rgrad.compare(Step(), estimators, key=jax.random.key(4), n=N, budget=ctx.size(1.5, 0.3))
    biased = {row["estimator"]: row["biased"] for row in found.rows}
    costs = {row["estimator"]: (row["seconds"], row["operations"]) for row in found.totals}
    ok = biased["reparameterized"] is True and not any(biased[name] for name in names[1:])
    ctx.check("compare", ok, biased=biased, recommended=found.recommended, costs=costs, compiled=found.compile_seconds)
    say(f"   compare: {found.recommendation[:160]}")
