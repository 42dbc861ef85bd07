"""Which gradient of an expectation over bits or categories has the least noise, which is biased, and which trains best?

python -m experiments.discrete
"""

from experiments.common.runner import run_of
from experiments.discrete.settings import DiscreteSettings

run = run_of(__name__, DiscreteSettings)

__all__ = ["DiscreteSettings", "run"]
