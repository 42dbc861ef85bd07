from experiments.common.runner import command
from experiments.policy import PolicySettings, run

command(PolicySettings, run)
