"""Is any estimator wrong for any distribution?

python -m experiments.distributions
"""

import os
from typing import Annotated

from pydantic import Field

from experiments.common.settings import ProblemSettings

GOOD = ("ok", "refused", "nan", "noisy")


class DistributionsSettings(ProblemSettings):
    """Every estimator on every distribution of NumPyro that can be built, against its true gradient.

    Each is right within its error, or refused by name, or nan; what is not says WRONG or CRASHED, and the status is 1.
    """

    only: str = ""
    """Rows whose name contains this."""
    num_samples: Annotated[int, Field(ge=2, lt=2**31)] = 20
    """Of one gradient estimate."""
    replicates: Annotated[int, Field(ge=100)] = 4_000
    """How many gradient estimates."""


def compile_fast(settings: DistributionsSettings) -> None:
    """Asks XLA for code that is compiled fast. Nearly all of the time is compilation. (At level 0 densities with loops take minutes.)"""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()
