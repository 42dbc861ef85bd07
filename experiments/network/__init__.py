"""Which layers of a network get the noise of its stochastic layer, and how large should the batch be?

python -m experiments.network
"""

from experiments.common.runner import run_of
from experiments.network.settings import NetworkSettings

run = run_of(__name__, NetworkSettings)

__all__ = ["NetworkSettings", "run"]
