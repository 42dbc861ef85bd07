"""A sweep over a grid, with one process or several."""

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.platform import use_platform
from experiments.common.readme import readme_of
from experiments.sweep.processes import join
from experiments.sweep.settings import SweepSettings
from experiments.sweep.study import sweep_to_folder


def run(settings: SweepSettings) -> None:
    if settings.readme:
        readme_of("sweep")  # before any work is done
    group = join(settings)
    use_platform(jax, settings.platform)
    with validation_enabled(False):  # parameters are checked once. Checking them at every trace takes seconds
        sweep_to_folder(settings, group)
