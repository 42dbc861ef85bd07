"""What `experiments.compare` compares: a problem that was tried out, and estimators by name."""

from typing import Any

import jax
import numpyro

from experiments.loading import load_estimator, load_problem
from experiments.measuring import Task, distribution_of, try_objective, usage
from experiments.runner import Advance
from rgrad.compare import compare
from rgrad.comparison import Comparison
from rgrad.problems import names_to_differentiate, point_of


def prepare(settings: Any) -> Task:
    """The problem at its point, tried out before anything is written or measured.

    Raises:
        UsageError: whatever is wrong with the problem, its parameters, or the name of an estimator.
    """
    name = settings.problem
    problem = load_problem(name)
    with usage("--params" if settings.params else f"--problem {name}", ValueError):
        point = point_of(problem, dict(settings.params))
    with usage("--wrt" if settings.wrt else f"--problem {name}", ValueError):
        wrt = names_to_differentiate(problem, point, settings.wrt)
    task = Task(name, problem, point, wrt, {name: load_estimator(name) for name in settings.estimators})
    try_objective(task, distribution_of(task), settings.seed)
    numpyro.enable_validation(False)  # the parameters have been checked; to check them at every trace takes seconds
    return task


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
