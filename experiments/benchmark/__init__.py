"""How fast is it, beside NumPy, PyTorch, stock JAX and C? Everything in one run, in turn, with the results checked.

python -m experiments.benchmark
"""

from experiments.benchmark.settings import BenchmarkSettings
from experiments.common.runner import run_of

run = run_of(__name__, BenchmarkSettings)

__all__ = ["BenchmarkSettings", "run"]
