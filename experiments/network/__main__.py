from experiments.common.runner import command
from experiments.network import NetworkSettings, run

command(NetworkSettings, run)
