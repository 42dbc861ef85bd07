"""Which layers of a network get the noise of its stochastic layer, and how large should the batch be?"""

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded, version
from experiments.network.figure import draw_figure
from experiments.network.model import LIBRARIES
from experiments.network.readme import readme_tables
from experiments.network.report import report
from experiments.network.rows import make_rows
from experiments.network.settings import NetworkSettings
from experiments.network.study import prepare, work
from experiments.network.study import study as measured


def run(settings: NetworkSettings) -> int:
    with validation_enabled(False):  # validation takes seconds at every trace
        task = prepare(settings)
    package = LIBRARIES[task.library].package
    library = {"library": f"{package} {version(package)}" if package else "plain JAX"}

    def study(advance: Advance) -> Outcome:
        found = measured(task, jax.random.key(settings.seed), advance)
        rows = make_rows(task, found)
        figure, tables = lambda: draw_figure(rows, settings), readme_tables(rows, settings)
        return Outcome(rows, figure, lambda: report(task, found, rows), library, tables)

    return recorded(settings, "network", work(task), "measuring", study)
