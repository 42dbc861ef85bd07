"""Which policy gradient is right, which is biased, and which trains best?

python -m experiments.policy
"""

from experiments.common.runner import run_of
from experiments.policy.settings import PolicySettings

run = run_of(__name__, PolicySettings)

__all__ = ["PolicySettings", "run"]
