from experiments.common.runner import command
from experiments.vae import VaeSettings, run

command(VaeSettings, run)
