"""`compare`: which estimator is best for its cost on a problem, and whether any of them is biased."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jax import Array

from rgrad.backend.compiling import check_compiles
from rgrad.comparison.allocation import Advance, entries_of, measure_all
from rgrad.comparison.contenders import Contenders, Losses, of_losses, of_problem
from rgrad.comparison.costs import compile_many
from rgrad.comparison.result import Comparison, conclude
from rgrad.comparison.runs import Run
from rgrad.errors import NotApplicable
from rgrad.estimators.table import Estimators
from rgrad.protocols import Params, Problem

NOMINAL = 1e9  # operations that count as one second if cost="operations"
COMPILING = 0.5  # of the progress


def compare(
    problem: Problem | Losses,
    estimators: Estimators | None = None,
    params: Params | None = None,
    wrt: Sequence[str] | None = None,
    *,
    key: Array,
    n: int = 10,
    budget: float = 10.0,
    cost: Literal["time", "operations"] = "time",
    references: Sequence[str] | None = None,
    progress: Advance | None = None,
) -> Comparison:
    """A comparison: which estimator has the least variance for its cost, how certain that is, and which are biased.

    Every estimator makes independent gradient estimates of n samples, as many as the budget allows. Half of the budget
    is shared equally. The rest is spent on open questions: whether the best estimator is better than its closest rival,
    and whether it is biased. The measure is

        efficiency = 1 / (variance x cost)

    relative to the best estimator, for each coordinate of the parameters. The overall efficiency uses the total
    variance, the sum over the coordinates, which is the mean squared error of the estimate. The estimator with the best
    overall efficiency is recommended, unless it is found to be biased.

    The tests of bias (`rgrad.comparison.verdicts.judge`) call any unbiased estimator biased in at most one comparison
    out of 100. No single reference is taken as the truth (`rgrad.comparison.witnesses.judge_all`). A reference counts
    in a coordinate only if another one, of a different kind, agrees with it. An estimator is called biased if it
    differs from both. Everything else is "cannot tell". The references are:

    - The exact gradient, if `q` has a finite support (a sum), or is normal in one or two dimensions and quadrature
      converges. The score function must agree with it.
    - The score function with a leave-one-out baseline, from separate samples. It is itself judged by the plain score
      function. There is no such reference if the support of `q` depends on the parameters. For samples of at most eight
      elements, `measure_valued` is a reference too.
    - The compared estimators, if they are rgrad's own, can confirm a reference of another kind. If f is found to jump,
      an estimator that differentiates f cannot.

    Parameters in which f itself is found to jump (a step at theta) are not judged: every estimator misses that part of
    the gradient. An estimator is not recommended if fewer than 100 draws determine its variance, or if it differs from
    another one and it is not known which of them is correct.

    Args:
        problem: has `distribution(params)`, `objective(params, x)` and `params` (`rgrad.Problem`). Or a dict of losses
            by name, each `loss(params, key) -> scalar`, which are differentiated with respect to `wrt`.
        estimators: a dict by name, or a list, of functions or names of `rgrad.ESTIMATORS`. By default the rows of
            `rgrad.estimators.table` that are marked as compared. Those that do not apply to the problem are left out,
            with the reason.
        params: the point: by name, or in the structure of the problem's own. Missing parameters keep the problem's
            values. Losses need it: any pytree of numbers, with names as in `rgrad.Problem.params`.
        wrt: the names of the parameters to differentiate. By default the problem's own `wrt`, or every parameter.
        n: the number of samples of one gradient estimate. (Losses choose their own.)
        budget: seconds of measuring. Compiling comes first and is not included. It usually takes one to ten seconds for
            each estimator and reference, and more for a large f (`Comparison.compile_seconds`). With
            `cost="operations"` a second means 1e9 operations, so the result is the same on slow and fast machines.
        cost: the cost of a gradient: "time", measured with many estimates at once in one program, or "operations"
            (`rgrad.comparison.costs`).
        references: for losses only: the names of those that are known to be correct. The others are judged by the first
            of them, and the first by the second. If these two differ, nothing is judged. Without references there is no
            verdict.
        progress: called with the share of the work that was done since the last call. Compiling is the first half, with
            one call for each program, and measuring the second half, with one call for each batch.

    Raises:
        ValueError, TypeError: no estimator applies, an unknown name, an invalid value, or `jax.disable_jit`.

    Example:
        >>> class problem:  # E[x^2], x ~ N(loc, 1)
        ...     params = {"loc": 2.0}
        ...     distribution = lambda params: dist.Normal(params["loc"], 1.0)
        ...     objective = lambda params, x: x**2
        >>> names = ["reparameterized", "score_function"]
        >>> compared = rgrad.compare(problem, names, key=key, budget=0.1, cost="operations")
        >>> compared.recommended
        'reparameterized'
    """
    check_compiles("compare")
    _check(budget, n, cost, references, problem, estimators)
    began = time.perf_counter()
    task = of_losses(problem, params, wrt, references) if isinstance(problem, Mapping) else of_problem(
        problem, estimators, params, wrt, n, key
    )  # fmt: skip
    advance = progress or (lambda share: None)
    runs, task = compiled(task, key, lambda share: advance(COMPILING * share))
    compile_seconds = time.perf_counter() - began
    budget = budget * (1 if cost == "time" else NOMINAL)
    spent = measure_all(runs, task, budget, cost, lambda share: advance((1 - COMPILING) * share))
    samples = None if isinstance(problem, Mapping) else n
    return conclude(entries_of(runs, cost), task, cost, samples, spent, compile_seconds)


def compiled(task: Contenders, key: Array, progress: Advance = lambda share: None) -> tuple[dict[str, Run], Contenders]:
    """A run for every estimator. Those that cannot be compiled are left out.

    Args:
        progress: called with the share of the programs that were compiled since the last call.
    """
    runs, left_out = {}, dict(task.left_out)
    for name, of in task.gradients.items():
        try:
            runs[name] = Run(name, compile_many(of, task.chosen, key), key)
        except NotApplicable as error:
            left_out[name] = " ".join(str(error).split())
        progress(1 / len(task.gradients))
    asked = tuple(name for name in task.asked if name in runs)
    if not asked:
        raise ValueError(f"compare: no estimator applies; {'; '.join(left_out.values())}")
    judges = {name: judge for name, judge in task.judges.items() if judge in runs}
    return runs, task._replace(asked=asked, left_out=left_out, judges=judges)


def _check(budget: Any, n: Any, cost: str, references: Any, problem: Any, estimators: Any) -> None:
    if not (isinstance(budget, int | float) and 0 < budget < np.inf):
        raise ValueError(f"compare: budget must be a positive number of seconds, got {budget}")
    if cost not in ("time", "operations"):
        raise ValueError(f"compare: cost must be 'time' or 'operations', got {cost!r}")
    losses = isinstance(problem, Mapping)
    if not losses and references is not None:
        raise ValueError(
            "compare: references are for losses only; omit them: those of a problem are chosen automatically"
        )
    if losses and estimators is not None:
        raise ValueError("compare: losses already are estimators; omit the argument estimators")
    for name in references or ():
        if name not in problem:
            raise ValueError(f"compare: reference {name!r} is not one of the losses; choose from {', '.join(problem)}")
