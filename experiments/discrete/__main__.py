from experiments.common.runner import command
from experiments.discrete import DiscreteSettings, run

command(DiscreteSettings, run)
