"""Why can squared error never find sigma^2, and do the two gradient formulas disagree? Fit mu and sigma by SGD, and see.

python -m experiments.fit
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ProblemSettings

OptimizerName = Literal["sgd", "momentum", "adam", "rmsprop", "adagrad", "adabelief"]


class FitSettings(ProblemSettings):
    """Fit a normal to data by stochastic gradient descent, under several objectives and gradient estimators.

    With no flags: a measured column that scikit-learn bundles. With --problem: minimise that problem instead, as
    --problem square, which drives loc from 2 to 0.
    """

    problem: str | None = None
    """Minimise this in place of the fit to data: a shipped problem, or your own as module:attribute or file.py:attribute."""
    data: str | None = None
    """A .csv or .npy file of your own."""
    column: str | None = None
    """Its column, by name (by number, from 0, where there are no names)."""
    synthetic: tuple[float, float, int] | None = None
    """Made data: MU SIGMA COUNT, as 3.0 2.0 500."""
    standardise: bool = False
    """Take the mean from the data and divide by the standard deviation, first."""
    objectives: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "squared_error",
        "energy_score",
        "kl",
        "negative_log_likelihood",
    )
    """Of squared_error, energy_score, kl and negative_log_likelihood."""
    parametrisation: Literal["sigma", "log_sigma", "variance"] = "log_sigma"
    """What is fitted besides mu."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
        "score_function+moving_average",
    )
    """By name, or your own as module:function."""
    optimizer: OptimizerName = "adam"
    """One of optax's."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """For parameters in units of the data's standard deviation, and an objective in its own unit: the same for all data."""
    decay: bool = True
    """Let the learning rate fall to 0 over the steps, as half a cosine."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 2_000
    """Of each fit."""
    num_samples: Annotated[int, Field(ge=1, lt=2**31)] = 10
    """Of one gradient estimate."""
    fits: Annotated[int, Field(ge=2)] = 200
    """How many fits of each kind, from the same start with other random numbers."""
    replicates: Annotated[int, Field(ge=2)] = 10_000
    """How many gradient estimates the table of gradients is measured over."""
    begin: tuple[float, float] | None = None
    """MU SIGMA to begin from. Default: two standard deviations above the data's mean, twice as wide as the data."""
