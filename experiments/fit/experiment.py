"""Why does squared error never find sigma^2? Do the two gradient formulas disagree? Fits mu and sigma by SGD."""

import jax

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.fit.figure import draw_figure
from experiments.fit.fitting import run_fits
from experiments.fit.readme import readme_tables
from experiments.fit.report import make_rows, report, trace_csv, warnings
from experiments.fit.settings import FitSettings
from experiments.fit.study import prepare


def run(settings: FitSettings) -> int:
    task = prepare(settings)
    problems = []

    def study(advance: Advance) -> Outcome:
        fitted, measured = {}, {}
        for i, part in enumerate(task.parts):
            key, for_table = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), i))
            fitted[part.target.name] = run_fits(
                part.target,
                part.estimators,
                task.optimizer,
                key,
                settings.steps,
                settings.num_samples,
                settings.fits,
                advance,
            )
            measured[part.target.name] = part.measure(for_table, settings.num_samples, settings.replicates)
        rows = make_rows(task, fitted, measured)

        def print_report() -> None:
            report(task, settings, rows, measured)
            problems.append(warnings(task, settings, fitted))

        figure, files = lambda: draw_figure(task, fitted), {"trace.csv": trace_csv(fitted)}
        return Outcome(rows, figure, print_report, tables=readme_tables(rows, settings), files=files)

    work = float(sum(len(part.estimators) for part in task.parts)) * settings.steps
    status = recorded(settings, "fit", work, "fitting", study)
    problems[0].raise_divergence()
    return status
