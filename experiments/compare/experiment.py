"""Which estimator should I use for my function, and is one of them wrong?"""

import jax

from experiments.common.measuring import tried
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.compare.figure import draw_figure
from experiments.compare.readme import readme_tables
from experiments.compare.settings import CompareSettings
from experiments.compare.study import compared


def run(settings: CompareSettings) -> int:
    task = tried(settings, settings.problem, settings.estimators)

    def study(advance: Advance) -> Outcome:
        comparison = compared(task, settings, jax.random.key(settings.seed), advance)
        return Outcome(
            list(comparison.rows),
            lambda: draw_figure(comparison, settings.problem),
            lambda: print(f"{settings.problem}\n\n{comparison}\n"),
            tables=readme_tables(comparison),
        )

    return recorded(settings, "compare", 1.0, plan(settings), study)


def plan(settings: CompareSettings) -> str:
    """What takes time, in words: compiling, which the budget does not include, and measuring."""
    unit = "s" if settings.cost == "time" else "x 1e9 operations"
    return f"compiling (1 to 10 s for each estimator), then measuring ({settings.budget:g} {unit})"
