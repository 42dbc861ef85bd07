"""The ELBO of location-scale families: checks of the equations in Aziz's notes, and the noise of its gradient as D grows.

python -m experiments.elbo
"""

from experiments.common.runner import run_of
from experiments.elbo.settings import ElboSettings

run = run_of(__name__, ElboSettings)

__all__ = ["ElboSettings", "run"]
