"""`rgrad.compare` for a task of the experiments."""

from typing import Any

import jax

from experiments.measuring import Task, usage
from experiments.runner import Advance
from rgrad.comparison.compare import compare
from rgrad.comparison.result import Comparison


def compared(task: Task, settings: Any, key: jax.Array, advance: Advance) -> Comparison:
    """Raises UsageError where no estimator applies."""
    with usage(f"--problem {task.name}", ValueError, TypeError, NotImplementedError):
        return compare(
            task.problem,
            task.estimators,
            task.point,
            task.wrt,
            key=key,
            n=settings.samples,
            budget=settings.budget,
            cost=settings.cost,
            progress=advance,
        )
