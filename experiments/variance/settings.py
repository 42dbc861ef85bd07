"""How much noisier is REINFORCE than the reparameterization trick on this problem, and can I trust the number?

python -m experiments.variance
"""

from typing import Annotated

from pydantic import Field

from experiments.common.settings import ONCE, ProblemSettings


class VarianceSettings(ProblemSettings):
    """The variance of gradient estimates over independent calls, for several numbers of samples.

    With no flags: the two gradients of E[x^2], x ~ N(loc, 1), at loc = 2.
    """

    problem: str = "square"
    """A built-in problem, or your own as package.module:attribute or file.py:attribute."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
    )
    """Names of estimators, or your own as module:function. `all` selects every one that applies."""
    num_samples: Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(min_length=1), ONCE] = (
        10,
        100,
        1_000,
        10_000,
        100_000,
    )
    """Samples in one gradient estimate, integers. Each gives one row of the table."""
    replicates: Annotated[int, Field(ge=2, le=2**62)] = 5_000
    """Independent estimates behind each mean and variance, an integer."""
