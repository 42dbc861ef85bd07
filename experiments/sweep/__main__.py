from experiments.common.runner import command
from experiments.sweep import SweepSettings, run

command(SweepSettings, run)
