"""The ELBO of location-scale families: the notes' equations checked, and how noisy its gradient is as D grows.

python -m experiments.elbo
"""

from experiments.common.runner import run_of
from experiments.elbo.settings import ElboSettings

run = run_of(__name__, ElboSettings)

__all__ = ["ElboSettings", "run"]
