"""How much noisier is REINFORCE than the reparameterization trick on this problem, and can I trust the number?

python -m experiments.variance
"""

from experiments.common.runner import run_of
from experiments.variance.settings import VarianceSettings

run = run_of(__name__, VarianceSettings)

__all__ = ["VarianceSettings", "run"]
