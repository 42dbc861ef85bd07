"""Does a tighter bound give a better gradient? The signal-to-noise ratio against K, near the optimum and far from it.

python -m experiments.bounds
"""

from experiments.bounds.settings import BoundsSettings
from experiments.common.runner import run_of

run = run_of(__name__, BoundsSettings)

__all__ = ["BoundsSettings", "run"]
