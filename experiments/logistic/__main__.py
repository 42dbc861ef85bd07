from experiments.common.runner import command
from experiments.logistic import LogisticSettings, run

command(LogisticSettings, run)
