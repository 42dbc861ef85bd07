"""Which loss should fit a NumPyro model with a discrete latent? A mixture with an assignment of every datum."""

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.svi.figure import draw_figure
from experiments.svi.readme import readme_tables
from experiments.svi.report import make_rows, raise_divergence, report, result_tables
from experiments.svi.settings import SviSettings
from experiments.svi.study import prepare, work
from experiments.svi.study import study as measured


def run(settings: SviSettings) -> int:
    with validation_enabled(False):  # validation takes seconds at every trace
        task = prepare(settings)

    results = []

    def study(advance: Advance) -> Outcome:
        found = measured(task, jax.random.key(settings.seed), advance)
        results.append(found)
        rows = make_rows(found)
        figure, tables = lambda: draw_figure(found), readme_tables(rows, settings)
        return Outcome(rows, figure, lambda: report(found, rows), tables=tables, files=result_tables(found))

    status = recorded(settings, "svi", work(task), "measuring and fitting", study)
    raise_divergence(results[0])
    return status
