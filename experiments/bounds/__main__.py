from experiments.bounds import BoundsSettings, run
from experiments.common.runner import command

command(BoundsSettings, run)
