from experiments.common.runner import command
from experiments.compare import CompareSettings, run

command(CompareSettings, run)
