"""How `compare` spends its budget: half equally, and half on the questions that are still open."""

from collections.abc import Callable, Mapping

import numpy as np

from rgrad.comparison.contenders import Contenders
from rgrad.comparison.entry import Entry
from rgrad.comparison.runs import Run
from rgrad.comparison.witnesses import judge_all

Advance = Callable[[float], None]
FIRST = 3  # batches of each estimator before anything is decided
BETWEEN = 64  # the fewest calls between two judgments of the bias. A judgment takes about as long as a few calls
LONGEST = 16  # the most calls between two decisions about what to measure
COORDINATES = 2**12  # for each of those calls; see `Questions`


def measure_all(
    runs: Mapping[str, Run], task: Contenders, budget: float, cost: str, progress: Advance | None = None
) -> float:
    """Spends the budget. Returns what was spent, in the unit of the budget.

    Args:
        progress: called with the share of the budget that was used since the last call.
    """
    spent = 0.0
    order, questions = list(runs.values()), Questions(runs, task, cost)

    def spend(run: Run) -> None:
        nonlocal spent
        used = run.batch(cost)
        spent += used
        if progress is not None:
            progress(used / budget)

    for run in order:
        spend(run)
    while spent < budget:
        random = [run for run in order if not run.program.constant and run.finite]
        begun = [run for run in order if len(run.seconds) < FIRST]
        if not begun and not random:
            break
        if begun:
            run = begun[0]
        elif spent < budget / 2:
            run = min(random, key=lambda run: run.used)
        else:
            run = questions.next() or min(random, key=lambda run: run.used)
        if spent + run.used / len(run.seconds) > 1.1 * budget:
            break
        spend(run)
    return spent


class Questions:
    """The open questions: whether the best so far is better than its rival and, in turn, whether it is biased.

    Evaluating all measurements takes as long as a few calls of a cheap f. It happens after every batch if a batch has
    many calls, and after several batches if a batch has few calls, because there are many coordinates.
    """

    def __init__(self, runs: Mapping[str, Run], task: Contenders, cost: str):
        self._runs, self._task, self._cost = runs, task, cost
        self._turn, self._asked_at, self._judged_at = 0, -LONGEST, -BETWEEN
        self._answer: Run | None = None
        self._biased: set[str] = set()

    def next(self) -> Run | None:
        """The run to measure next. None if no estimator can be recommended so far."""
        calls = sum(run.calls for run in self._runs.values())
        if calls >= self._asked_at + min(LONGEST, len(self._task.labels) // COORDINATES):
            self._asked_at = calls
            self._answer = self._ask()
        return self._answer

    def _ask(self) -> Run | None:
        """The less precise of the best and its rival or, in turn, its reference."""
        self._turn += 1
        runs, judges = self._runs, self._task.judges
        found = entries_of(runs, self._cost, fresh=False)
        biased = self._biased_among(found)
        able = [name for name in self._task.asked if name not in biased and found[name].total > 0]
        able = sorted((name for name in able if found[name].eligible), key=lambda name: -found[name].log_efficiency)
        if not able:
            return None
        best, *others = able
        if self._turn % 2 and best in judges:
            return runs[max((best, judges[best]), key=lambda name: float(np.sum(found[name].mean.error ** 2)))]
        closest = min(others, key=lambda name: found[best].lead(found[name]), default=best)
        return runs[max((best, closest), key=lambda name: found[name].noise)]

    def _biased_among(self, found: Mapping[str, Entry]) -> set[str]:
        calls = sum(run.calls for run in self._runs.values())
        if calls >= self._judged_at + BETWEEN:
            self._judged_at = calls
            self._biased = {name for name, of in judge_all(found, self._task).items() if of.biased}
        return self._biased


def entries_of(runs: Mapping[str, Run], cost: str, *, fresh: bool = True) -> dict[str, Entry]:
    """The current measurements of every estimator. `fresh` is that of `Run.entry`."""
    return {name: run.entry(cost, fresh=fresh) for name, run in runs.items()}
