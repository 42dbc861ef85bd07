"""Which gradient of an expectation over bits or categories has the least noise, which is biased, and which trains best?"""

from itertools import product
from typing import Any

import jax

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.common.tables import number, print_table
from experiments.discrete.figure import draw_figure
from experiments.discrete.readme import readme_tables
from experiments.discrete.settings import DiscreteSettings
from experiments.discrete.study import prepare, rows_of


def run(settings: DiscreteSettings) -> int:
    tasks = prepare(settings)

    def study(advance: Advance) -> Outcome:
        rows, curves = rows_of(tasks, settings, jax.random.key(settings.seed), advance)
        figure = lambda: draw_figure(rows, curves, settings)
        return Outcome(rows, figure, lambda: report(rows, settings), tables=readme_tables(rows, settings))

    return recorded(settings, "discrete", sum(len(task.ways) for task in tasks), "measuring and training", study)


def report(rows: list[dict[str, Any]], settings: DiscreteSettings) -> None:
    header = [
        "estimator",
        "f evaluations",
        "mean",
        "exact",
        "bias",
        "95 % +-",
        "variance",
        "95 % interval",
        "excess loss",
    ]
    for problem, target in product(settings.problems, settings.targets):
        lines = [
            [
                r["estimator"], f"{r['evaluations']:,}", number(r["mean"]), number(r["exact_mean"]), number(r["bias"], 2),
                number(1.96 * r["standard_error"], 2), number(r["variance"]),
                f"[{number(r['variance_low'])}, {number(r['variance_high'])}]",
                f"{number(r['excess_loss'], 3)} +- {number(1.96 * r['excess_loss_error'], 2)}",
            ]
            for r in rows if (r["problem"], r["target"]) == (problem, target)
        ]  # fmt: skip
        of = {
            "bits": f"{settings.bits} bits, t = {target:g}: gradient for one logit from {settings.num_samples} samples",
            "categories": f"{settings.classes} categories, t = {target:g}: gradient for the first logit from as many samples "
            f"as take {settings.evaluations} evaluations of f",
        }
        title = f"{of[problem]}, over {settings.replicates:,} estimates; excess loss: loss minus its minimum after {settings.steps:,} steps, {settings.fits} runs"
        print_table(header, lines, title)
    print("for biased estimators, the loss is also that of the discrete x, not that of its relaxation")
