"""Plots a slice of a results folder: one column against another.

python -m experiments.plot
"""

from experiments.common.runner import run_of
from experiments.plot.settings import PlotSettings

run = run_of(__name__, PlotSettings)

__all__ = ["PlotSettings", "run"]
