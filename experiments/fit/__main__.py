from experiments.common.runner import command
from experiments.fit import FitSettings, run

command(FitSettings, run)
