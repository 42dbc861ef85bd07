"""The same measurement over a grid of settings: thousands of cells, on all devices, resumable after a kill.

python -m experiments.sweep
"""

from experiments.common.runner import run_of
from experiments.sweep.settings import SweepSettings, before_jax

run = run_of(__name__, SweepSettings, before=before_jax, joins=True)

__all__ = ["SweepSettings", "run"]
