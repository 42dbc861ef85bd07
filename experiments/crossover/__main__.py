from experiments.common.runner import command
from experiments.crossover import CrossoverSettings, run

command(CrossoverSettings, run)
