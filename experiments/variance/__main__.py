from experiments.common.runner import command
from experiments.variance import VarianceSettings, run

command(VarianceSettings, run)
