"""Does the reparameterization trick train a variational autoencoder better than the score function, at equal compute?

python -m experiments.vae
"""

from experiments.common.runner import run_of
from experiments.vae.settings import VaeSettings

run = run_of(__name__, VaeSettings)

__all__ = ["VaeSettings", "run"]
