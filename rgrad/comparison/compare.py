"""`compare`: which estimator is best for its cost, on this problem, and is one of them wrong?"""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.comparison.contenders import Contenders, Losses, of_losses, of_problem
from rgrad.comparison.costs import Program, compile_many, keys_for
from rgrad.comparison.result import Comparison, Entry, conclude
from rgrad.comparison.verdicts import TOP, Mean, infinite_variance
from rgrad.comparison.witnesses import judge_all
from rgrad.errors import NotApplicable
from rgrad.measurement.moments import Moments
from rgrad.protocols import Estimator, Problem

Advance = Callable[[float], None]
NOMINAL = 1e9  # operations that count as a second, where operations are what counts
FIRST = 3  # batches of each before anything is decided


def compare(
    problem: Problem | Losses,
    estimators: Mapping[str, Estimator] | None = None,
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
    """Which estimator has the least variance for its cost, how sure that is, and which of them are biased.

        print(rgrad.compare(problem, key=jax.random.key(0)))

    Every estimator makes independent gradient estimates of n samples, as many as the budget allows: half of the budget is
    shared equally, the rest goes to what is not decided (the best and its closest rival; its bias test). Then

        efficiency = 1 / (variance x cost)

    for each coordinate of the parameters, relative to the best; and over all of them, with the total variance (the sum over
    the coordinates, which is the mean squared error of the estimate). What is best overall is recommended, unless it is
    called biased. For the tests of bias see `rgrad.comparison.verdicts.judge`: they call an unbiased estimator biased in one
    comparison out of 100, at most. No single reference is taken as the truth (`rgrad.comparison.witnesses.judge_all`): one counts in a
    coordinate if another that is made in another way agrees with it, and an estimator that differs from it is biased if it
    differs from that other one too; all else is "cannot tell". These are

    - the exact gradient, where `q` has a finite support (a sum) or is normal in one or two dimensions and quadrature
      converges; the score function must agree with it;
    - the score function with a leave-one-out baseline (that one by the plain score function), from samples of their own; where
      the support of `q` moves with the parameters there is none; and `measure_valued`, for a few numbers at a time;
    - the estimators that are compared, if they are rgrad's own, confirm those, but not one of the same kind; nor does a
      gradient through f where f is found to jump.

    Nothing is judged in parameters in which f itself is found to jump (a step at theta): every estimator leaves that out.
    Nothing is recommended whose variance fewer than 100 draws carry, nor what differs from another where nothing says which of
    them is right.

    Args:
        problem: has `distribution(params)`, `objective(params, x)` and `params`; or ready-made losses by name, each
            `loss(params, key)` to a scalar, which are differentiated with respect to `wrt`.
        estimators: by name; by default those of the table (`rgrad.estimators.table`) that are compared. Those that refuse the problem are left out, with the reason.
        params: the point; by default the problem's own, and so for each name that is absent. Needed for losses.
        wrt: the names of the parameters to differentiate; by default the problem's own `wrt`, or every one.
        n: samples of one gradient estimate. (Losses have their own.)
        budget: seconds of measuring, without compilation; with `cost="operations"` a second is 1e9 operations, so that the
            result is the same on a slow machine and on a fast one.
        cost: of a gradient: its time, measured, many at once in one program; or its operations (`rgrad.comparison.costs`).
        references: losses only: the names of those that are known to be right. The others are judged by the first of
            them, and that one by the second; by none where these two differ. Without any there is no verdict.
        progress: called with the share of the budget that was used since.

    Raises:
        ValueError, TypeError: no estimator applies, an unknown name, or a bad value.
    """
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
    """An estimator at work: its program, and what has come of it."""

    def __init__(self, name: str, program: Program, key: Array):
        self.name, self.program, self.key = name, program, jax.random.fold_in(key, zlib.crc32(name.encode()))
        self.calls, self.used, self.seconds = 0, 0.0, []  # type: ignore[var-annotated]
        self.moments: Moments | None = None
        """Of every coordinate and, last, of the squared distance from the first mean: its mean is the total variance."""

    def batch(self, cost: str) -> float:
        """`lanes` more calls; what they cost."""
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
    """What is known of every estimator so far."""
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
    """Spends the budget; returns what was spent, in its unit."""
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
    """In turn: of the best and its closest rival, and of the best and its reference, the one that is less well known."""
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
    """A run of every estimator; those that cannot be compiled are left out."""
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
    """Of independent calls, shape `(calls, numbers)`, in 64 bits."""
    finite = np.isfinite(x)
    x = np.where(finite.all(0), x, np.nan)
    mean = x.mean(0)
    square = (x - mean) ** 2
    m3, m4 = (square * (x - mean)).mean(0), (square**2).mean(0)
    return Moments(np.asarray(len(x)), mean, square.mean(0), m3, m4, (~finite).sum(0))


def _largest(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest `TOP + 1` of each column, in falling order."""
    if len(x) > TOP + 1:
        x = np.partition(x, len(x) - TOP - 1, 0)[-TOP - 1 :]
    return np.sort(x, 0)[::-1]


def _check(budget: Any, n: Any, cost: str, references: Any, problem: Any, estimators: Any) -> None:
    if not (isinstance(budget, int | float) and 0 < budget < np.inf):
        raise ValueError(f"compare: budget = {budget}; it must be a positive number, of seconds")
    if cost not in ("time", "operations"):
        raise ValueError(f"compare: cost = {cost!r}; write 'time' or 'operations'")
    losses = isinstance(problem, Mapping)
    if not losses and references is not None:
        raise ValueError("compare: references are for losses; those of a problem are found by itself")
    if losses and estimators is not None:
        raise ValueError("compare: losses are estimators already; leave estimators out")
    for name in references or ():
        if name not in problem:
            raise ValueError(f"compare: reference {name!r} is none of the losses; these are {', '.join(problem)}")
