"""Which gradient of an expectation over bits is the least noisy, which one is biased, and which one trains?

python -m experiments.discrete
"""

from experiments.common.runner import run_of
from experiments.discrete.settings import DiscreteSettings

run = run_of(__name__, DiscreteSettings)

__all__ = ["DiscreteSettings", "run"]
