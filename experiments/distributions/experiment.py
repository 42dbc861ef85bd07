"""Is any estimator wrong for any distribution?"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import active_children, get_context

import jax

from experiments.common.errors import UsageError
from experiments.common.interrupt import cleaned
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.distributions.readme import readme_tables
from experiments.distributions.settings import GOOD, DistributionsSettings
from experiments.distributions.study import ESTIMATORS, Cell, cells_of
from experiments.distributions.table import rows as table_rows

ROWS_AT_ONCE = 40


def run(settings: DistributionsSettings) -> int:
    with jax.enable_x64(True):
        chosen = [row for row in table_rows() if settings.only in row.name]
    if not chosen:
        raise UsageError(f"--only {settings.only}: no distribution has this in its name; give e.g. --only Normal")
    width = max(len(row.name) for row in chosen)
    found: list[Cell] = []

    def study(advance: Advance) -> Outcome:
        print(" " * width, *(f"{name.removeprefix('score_function+')[:9]:>9}" for name in ESTIMATORS))
        of = partial(cells_of, num_samples=settings.num_samples, replicates=settings.replicates, seed=settings.seed)
        for row, several in zip(chosen, in_processes(of, [row.name for row in chosen]), strict=True):
            found.extend(several)
            verdicts = {cell.estimator: cell.verdict for cell in several}
            print(f"{row.name:{width}}", *(f"{verdicts.get(e, ''):>9}" for e in ESTIMATORS), flush=True)
            advance(1)
        return Outcome(
            [cell._asdict() for cell in found], dict, lambda: report(found, len(chosen)), tables=readme_tables(found)
        )

    return recorded(settings, "distributions", len(chosen), "measuring", study)


def in_processes(of: Callable[[str], list[Cell]], names: Sequence[str]) -> Iterator[list[Cell]]:
    """`map(of, names)`, in two processes, because tracing holds Python's lock.

    The processes are replaced after every `ROWS_AT_ONCE` names, because compiled programs use up the memory maps of a
    process. The pool's own `max_tasks_per_child` is not used: with it, Python 3.11 can wait forever for processes that
    ended.
    """
    # If a signal ends this process, a helper process of Python removes its semaphores and prints a warning.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    for start in range(0, len(names), ROWS_AT_ONCE):
        # This process stops the others. On Ctrl-C, they would print tracebacks.
        pool = ProcessPoolExecutor(2, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
        with cleaned(kill_children), pool as processes:
            yield from processes.map(of, names[start : start + ROWS_AT_ONCE])


def kill_children() -> None:
    for child in active_children():
        child.kill()


def report(found: list[Cell], distributions: int) -> bool:
    """Prints what is wrong, and the number of cells per verdict. Returns whether anything is wrong."""
    print()
    bad = [cell for cell in found if cell.verdict not in GOOD]
    for cell in bad:
        print(f"{cell.verdict} {cell.row}, {cell.estimator}: {cell.detail[:300]}")
    counts = Counter(cell.verdict for cell in found)
    print(f"\n{distributions} distributions, {len(found)} cells: " + ", ".join(f"{n} {v}" for v, n in counts.items()))
    return bool(bad)
