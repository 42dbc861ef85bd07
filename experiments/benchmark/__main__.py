from experiments.benchmark import BenchmarkSettings, run
from experiments.common.runner import command

command(BenchmarkSettings, run)
