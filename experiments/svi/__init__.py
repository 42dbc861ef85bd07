"""Which loss should fit a NumPyro model with a discrete latent? A mixture with an assignment of every datum.

python -m experiments.svi
"""

from experiments.common.runner import run_of
from experiments.svi.settings import SviSettings

run = run_of(__name__, SviSettings)

__all__ = ["SviSettings", "run"]
