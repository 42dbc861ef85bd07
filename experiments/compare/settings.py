"""Which estimator should I use for my function, and is one of them wrong?

python -m experiments.compare --problem mine.py:problem
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ProblemSettings


class CompareSettings(ProblemSettings):
    """Compares all estimators on one problem: variance, cost, efficiency = 1 / (variance x cost), and tests for bias.

    With no flags: the gradients of E[sin(10 x)], x ~ N(0, 1), where REINFORCE wins.
    """

    problem: str = "sine"
    """A built-in problem, or your own as package.module:attribute or file.py:attribute."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = ("compared",)
    """Names of estimators, or your own as module:function. `compared` selects all unbiased ones. Those that do not apply are left out."""
    num_samples: Annotated[int, Field(ge=1, lt=2**31)] = 10
    """Samples in one gradient estimate, an integer."""
    budget: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """Seconds of measurement, without compilation, which takes 1 to 10 more for each estimator. With --cost operations, one second counts as 1e9 operations."""
    cost: Literal["time", "operations"] = "time"
    """Cost of a gradient: its measured time, or its operations (the same on every machine)."""
