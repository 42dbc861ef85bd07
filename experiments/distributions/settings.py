"""Is any estimator wrong for any distribution?

python -m experiments.distributions
"""

import os
from typing import Annotated

from pydantic import Field

from experiments.common.settings import ProblemSettings

GOOD = ("ok", "refused", "nan", "noisy")


class DistributionsSettings(ProblemSettings):
    """Tests unbiased estimators on every NumPyro distribution that can be built, against the true gradient.

    An estimate must be right within its error, refused with a message, or nan. Anything else is marked WRONG or
    CRASHED, and the exit status is 1.
    """

    only: str = ""
    """Run only the rows whose name contains this text."""
    num_samples: Annotated[int, Field(ge=2, lt=2**31)] = 20
    """Samples in one gradient estimate, an integer."""
    replicates: Annotated[int, Field(ge=100, le=2**40)] = 4_000
    """Gradient estimates per row, an integer."""


def compile_fast(settings: DistributionsSettings) -> None:
    """Lets XLA compile faster, because compilation takes nearly all of the time.

    Level 0 would compile even faster, but then densities with loops take minutes.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()
