"""Is this gradient right, and if not, where is it cut?"""

import jax

from experiments.audit.figure import draw_figure
from experiments.audit.readme import readme_tables
from experiments.audit.report import report
from experiments.audit.settings import AuditSettings
from experiments.audit.study import CUT_COLUMNS, audits, cuts_of, prepare, rows_of
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded, table_csv


def run(settings: AuditSettings) -> int:
    task = prepare(settings)

    def study(advance: Advance) -> Outcome:
        found = audits(task, settings, jax.random.key(settings.seed), advance)
        return Outcome(
            rows_of(found),
            lambda: draw_figure(found, task.own, settings.tolerance),
            lambda: report(found, task.own, settings),
            tables={} if task.own else readme_tables(found),
            files={"cuts.csv": table_csv(cuts_of(found), CUT_COLUMNS)},
        )

    return recorded(settings, "audit", len(task.losses), "compiling and measuring", study)
