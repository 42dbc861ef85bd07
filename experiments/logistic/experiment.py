"""How much does the choice of gradient matter on a real posterior? Bayesian logistic regression, checked against NUTS."""

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.logistic.figure import draw_figure
from experiments.logistic.files import result_tables
from experiments.logistic.readme import readme_tables
from experiments.logistic.report import make_rows, raise_divergence, report
from experiments.logistic.settings import LogisticSettings
from experiments.logistic.study import prepare
from experiments.logistic.study import study as fitted


def run(settings: LogisticSettings) -> int:
    with validation_enabled(False):  # the parameters come from this program, and the report mentions bad ones
        task = prepare(settings)
    results = []

    def study(advance: Advance) -> Outcome:
        found = fitted(task, jax.random.key(settings.seed), advance)
        results.append(found)
        rows = make_rows(found)
        figure, tables = lambda: draw_figure(found), readme_tables(rows, settings)
        return Outcome(rows, figure, lambda: report(found, rows), tables=tables, files=result_tables(found))

    status = recorded(settings, "logistic", task.work, "fitting", study)
    raise_divergence(results[0])
    return status
