from experiments.common.runner import command
from experiments.plot import PlotSettings, run

command(PlotSettings, run)
