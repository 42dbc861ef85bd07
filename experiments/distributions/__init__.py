"""Is any estimator wrong for any distribution?

python -m experiments.distributions
"""

from experiments.common.runner import run_of
from experiments.distributions.settings import DistributionsSettings, compile_fast

run = run_of(__name__, DistributionsSettings, before=compile_fast)

__all__ = ["DistributionsSettings", "run"]
