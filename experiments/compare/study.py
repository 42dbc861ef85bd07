"""`rgrad.compare` for a task of the experiments."""

from typing import Any

import jax

import rgrad
from experiments.common.measuring import ProblemTask, usage
from experiments.common.progress import Advance


def compared(task: ProblemTask, settings: Any, key: jax.Array, advance: Advance) -> rgrad.Comparison:
    """Calls `rgrad.compare`. Raises UsageError if no estimator applies."""
    with usage(f"--problem {task.name}", ValueError, TypeError, NotImplementedError):
        return rgrad.compare(
            task.problem,
            task.estimators,
            task.point,
            task.wrt,
            key=key,
            n=settings.num_samples,
            budget=settings.budget,
            cost=settings.cost,
            progress=advance,
        )
