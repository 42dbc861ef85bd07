from experiments.common.runner import command
from experiments.distributions import DistributionsSettings, run

command(DistributionsSettings, run)
