"""Why does squared error never find sigma^2? Do the two gradient formulas disagree? Fits mu and sigma by SGD.

python -m experiments.fit
"""

from experiments.common.runner import run_of
from experiments.fit.settings import FitSettings

run = run_of(__name__, FitSettings)

__all__ = ["FitSettings", "run"]
