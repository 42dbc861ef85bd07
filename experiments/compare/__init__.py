"""Which estimator should I use for my function, and is one of them wrong?

python -m experiments.compare
"""

from experiments.common.runner import run_of
from experiments.compare.settings import CompareSettings

run = run_of(__name__, CompareSettings)

__all__ = ["CompareSettings", "run"]
