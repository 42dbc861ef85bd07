"""How fast is it, compared with NumPy, PyTorch, stock JAX and C? One run, contenders in turn, every result checked.

python -m experiments.benchmark
"""

from experiments.benchmark.settings import BenchmarkSettings
from experiments.common.runner import run_of

run = run_of(__name__, BenchmarkSettings)

__all__ = ["BenchmarkSettings", "run"]
