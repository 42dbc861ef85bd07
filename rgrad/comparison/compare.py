"""`compare`: which estimator is best for its cost on a problem, and whether any of them is biased."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.backend.compiling import check_compiles
from rgrad.comparison.contenders import Contenders, Losses, of_losses, of_problem
from rgrad.comparison.costs import Program, compile_many, keys_for
from rgrad.comparison.result import Comparison, Entry, conclude
from rgrad.comparison.verdicts import TOP, Mean, infinite_variance
from rgrad.comparison.witnesses import judge_all
from rgrad.errors import NotApplicable
from rgrad.estimators.table import Estimators
from rgrad.measurement.moments import Moments
from rgrad.protocols import Problem

Advance = Callable[[float], None]
NOMINAL = 1e9  # operations that count as one second if cost="operations"
FIRST = 3  # batches of each estimator before anything is decided


def compare(
    problem: Problem | Losses,
    estimators: Estimators | None = None,
    params: Mapping[str, ArrayLike] | None = None,
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

        print(rgrad.compare(problem, key=jax.random.key(0)))

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
        problem: has `distribution(params)`, `objective(params, x)` and `params`. Or a dict of losses by name, each
            `loss(params, key) -> scalar`, which are differentiated with respect to `wrt`.
        estimators: a dict by name, or a list, of functions or names of `rgrad.ESTIMATORS`. By default the rows of `rgrad.estimators.table` that are marked as compared. Those that do
            not apply to the problem are left out, with the reason.
        params: the point. Missing names take the problem's own values. Losses need it.
        wrt: the names of the parameters to differentiate. By default the problem's own `wrt`, or every parameter.
        n: the number of samples of one gradient estimate. (Losses choose their own.)
        budget: seconds of measuring, without compilation. With `cost="operations"` a second means 1e9 operations, so
            that the result is the same on slow and fast machines.
        cost: the cost of a gradient: "time", measured with many estimates at once in one program, or "operations"
            (`rgrad.comparison.costs`).
        references: for losses only: the names of those that are known to be correct. The others are judged by the first
            of them, and the first by the second. If these two differ, nothing is judged. Without references there is no
            verdict.
        progress: called with the share of the budget that was used since the last call.

    Raises:
        ValueError, TypeError: no estimator applies, an unknown name, an invalid value, or `jax.disable_jit`.
    """
    check_compiles("compare")
    _check(budget, n, cost, references, problem, estimators)
    began = time.perf_counter()
    task = of_losses(problem, params, wrt, references) if isinstance(problem, Mapping) else of_problem(
        problem, estimators, params, wrt, n, key
    )  # fmt: skip
    runs, task = compiled(task, key)
    compile_seconds = time.perf_counter() - began
    spent = measure_all(runs, task, budget * (1 if cost == "time" else NOMINAL), cost, progress)
    return conclude(entries_of(runs, task, cost), task, cost, n, spent, compile_seconds)


class Run:
    """An estimator's compiled program, and its measurements so far."""

    def __init__(self, name: str, program: Program, key: Array):
        self.name, self.program, self.key = name, program, jax.random.fold_in(key, zlib.crc32(name.encode()))
        self.calls, self.used, self.seconds = 0, 0.0, []  # type: ignore[var-annotated]
        self.moments: Moments | None = None
        """Of every coordinate and, last, of the squared distance from the first batch's mean, for `total_error`."""

    def batch(self, cost: str) -> float:
        """Makes `lanes` more calls and returns their cost."""
        began = time.perf_counter()
        keys = keys_for(self.key, np.uint32(self.calls >> 32), np.uint32(self.calls & 0xFFFFFFFF), self.program.lanes)
        keys.block_until_ready()
        ready = time.perf_counter()
        x = np.asarray(self.program.run(self.program.parameters, keys), np.float64)
        self.seconds.append((time.perf_counter() - ready) / self.program.lanes)
        if self.moments is None:
            self.first, self.middle = x.mean(0), np.median(x, 0)
            self.top = np.zeros((0, x.shape[1]))
        self.top = _largest(np.concatenate([self.top, np.abs(x - self.middle)]))
        part = _moments_of(np.concatenate([x, ((x - self.first) ** 2).sum(1, keepdims=True)], 1))
        self.moments = part if self.moments is None else self.moments.merge(part)
        self.calls += self.program.lanes
        used = time.perf_counter() - began if cost == "time" else self.program.lanes * self.program.operations
        self.used += used
        return used


def entries_of(runs: Mapping[str, Run], task: Contenders, cost: str) -> dict[str, Entry]:
    """The current measurements of every estimator."""
    return {name: _entry(run, task, cost) for name, run in runs.items()}


def _entry(run: Run, task: Contenders, cost: str) -> Entry:
    assert run.moments is not None
    part = lambda tree, at: jax.tree.map(lambda a: a[..., at], tree)
    of = run.moments
    moments = Moments(of.count, *(part(tree, slice(None, -1)) for tree in of[1:]))
    spread = Moments(of.count, *(part(tree, -1) for tree in of[1:]))
    seconds = np.sort(run.seconds)
    middle = float(np.median(seconds))
    quartiles = np.quantile(seconds, [0.25, 0.75])
    noise = float(quartiles[1] - quartiles[0]) / 1.35 * 1.25 / len(seconds) ** 0.5 / middle
    by_time = cost == "time"
    return Entry(
        moments,
        Mean.of(moments, run.program.constant),
        float(moments.variance.sum()),
        float(spread.standard_error),
        middle,
        run.program.operations,
        middle if by_time else max(run.program.operations, 1.0),
        noise if by_time else 0.0,
        infinite_variance(run.top, run.calls) & (not run.program.constant),
        run.program.constant,
    )


def measure_all(runs: Mapping[str, Run], task: Contenders, budget: float, cost: str, progress: Advance | None) -> float:
    """Spends the budget. Returns what was spent, in the unit of the budget."""
    spent, turn = 0.0, 0
    order = list(runs.values())

    def spend(run: Run) -> None:
        nonlocal spent
        used = run.batch(cost)
        spent += used
        if progress is not None:
            progress(used / budget)

    for run in order:
        spend(run)
    while spent < budget:
        random = [run for run in order if not run.program.constant and np.all(np.isfinite(run.moments.mean))]  # type: ignore[union-attr]
        begun = [run for run in order if len(run.seconds) < FIRST]
        if not begun and not random:
            break
        if begun:
            run = begun[0]
        elif spent < budget / 2:
            run = min(random, key=lambda run: run.used)
        else:
            turn += 1
            run = _undecided(runs, task, cost, turn) or min(random, key=lambda run: run.used)
        if spent + run.used / len(run.seconds) > 1.1 * budget:
            break
        spend(run)
    return spent


def _undecided(runs: Mapping[str, Run], task: Contenders, cost: str, turn: int) -> Run | None:
    """The run to measure next: the less precise of the best and its rival or, in turn, its reference."""
    found = entries_of(runs, task, cost)
    judged = judge_all(found, task)
    able = [name for name in task.asked if found[name].eligible and "BIASED" not in judged[name].verdict]
    able = sorted((name for name in able if found[name].total > 0), key=lambda name: -found[name].log_efficiency)
    if not able:
        return None
    best, *others = able
    if turn % 2 and best in task.judges:
        return runs[max((best, task.judges[best]), key=lambda name: float(np.sum(found[name].mean.error ** 2)))]
    closest = min(others, key=lambda name: found[best].lead(found[name]), default=best)
    return runs[max((best, closest), key=lambda name: found[name].noise)]


def compiled(task: Contenders, key: Array) -> tuple[dict[str, Run], Contenders]:
    """A run for every estimator. Those that cannot be compiled are left out."""
    runs, left_out = {}, dict(task.left_out)
    for name, of in task.gradients.items():
        try:
            runs[name] = Run(name, compile_many(of, task.chosen, key), key)
        except NotApplicable as error:
            left_out[name] = " ".join(str(error).split())
    asked = tuple(name for name in task.asked if name in runs)
    if not asked:
        raise ValueError(f"compare: no estimator applies; {'; '.join(left_out.values())}")
    judges = {name: judge for name, judge in task.judges.items() if judge in runs}
    return runs, task._replace(asked=asked, left_out=left_out, judges=judges)


def _moments_of(x: np.ndarray[Any, Any]) -> Moments:
    """The moments of independent calls, given with shape `(calls, numbers)`, in 64 bits."""
    finite = np.isfinite(x)
    x = np.where(finite.all(0), x, np.nan)
    mean = x.mean(0)
    square = (x - mean) ** 2
    m3, m4 = (square * (x - mean)).mean(0), (square**2).mean(0)
    return Moments(np.asarray(len(x)), mean, square.mean(0), m3, m4, (~finite).sum(0))


def _largest(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest `TOP + 1` values of each column, in descending order."""
    if len(x) > TOP + 1:
        x = np.partition(x, len(x) - TOP - 1, 0)[-TOP - 1 :]
    return np.sort(x, 0)[::-1]


def _check(budget: Any, n: Any, cost: str, references: Any, problem: Any, estimators: Any) -> None:
    if not (isinstance(budget, int | float) and 0 < budget < np.inf):
        raise ValueError(f"compare: budget must be a positive number of seconds, got {budget}")
    if cost not in ("time", "operations"):
        raise ValueError(f"compare: cost must be 'time' or 'operations', got {cost!r}")
    losses = isinstance(problem, Mapping)
    if not losses and references is not None:
        raise ValueError("compare: references are for losses only; omit them, a problem's are chosen automatically")
    if losses and estimators is not None:
        raise ValueError("compare: losses already are estimators; omit the argument estimators")
    for name in references or ():
        if name not in problem:
            raise ValueError(f"compare: reference {name!r} is not one of the losses; choose from {', '.join(problem)}")
