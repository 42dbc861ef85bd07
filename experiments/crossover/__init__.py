"""Has the reparameterization trick always a lower variance than REINFORCE? The map of where it has, and where it has not.

python -m experiments.crossover
"""

from experiments.common.runner import run_of
from experiments.crossover.settings import CrossoverSettings

run = run_of(__name__, CrossoverSettings)

__all__ = ["CrossoverSettings", "run"]
