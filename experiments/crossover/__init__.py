"""Does the reparameterization trick always have a lower variance than REINFORCE? Maps of where it does.

python -m experiments.crossover
"""

from experiments.common.runner import run_of
from experiments.crossover.settings import CrossoverSettings

run = run_of(__name__, CrossoverSettings)

__all__ = ["CrossoverSettings", "run"]
