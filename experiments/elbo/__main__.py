from experiments.common.runner import command
from experiments.elbo import ElboSettings, run

command(ElboSettings, run)
