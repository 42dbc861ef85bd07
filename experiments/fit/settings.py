"""Why does squared error never find sigma^2? Do the two gradient formulas disagree? Fits mu and sigma by SGD.

python -m experiments.fit
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, PathText, ProblemSettings

OptimizerName = Literal["sgd", "momentum", "adam", "rmsprop", "adagrad", "adabelief"]


class FitSettings(ProblemSettings):
    """Fits a normal to data by stochastic gradient descent, with several objectives and gradient estimators.

    With no flags, it fits a column of measurements bundled with scikit-learn. With --problem, it minimises that problem
    instead. For example, --problem square moves loc from 2 to 0.
    """

    problem: str | None = None
    """Minimise this instead of fitting data: a built-in problem, or your own as module:attribute or file.py:attribute."""
    data: PathText | None = None
    """Your own .csv or .npy file."""
    column: str | None = None
    """Column of --data, by name (or by number, from 0, if there are no names)."""
    synthetic: tuple[float, float, Annotated[int, Field(le=2**24)]] | None = None
    """Synthetic data: MU SIGMA COUNT, e.g. 3.0 2.0 500."""
    standardise: bool = False
    """First subtract the mean of the data and divide by the standard deviation."""
    objectives: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "squared_error",
        "energy_score",
        "kl",
        "negative_log_likelihood",
    )
    """Any of squared_error, energy_score, kl and negative_log_likelihood."""
    parametrisation: Literal["sigma", "log_sigma", "variance"] = "log_sigma"
    """Parameter that is fitted together with mu."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
        "score_function+moving_average",
    )
    """Names of estimators, or your own as module:function."""
    optimizer: OptimizerName = "adam"
    """Optimizer from optax."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Learning rate, in units of the standard deviation of the data and of the objective. One value suits all data."""
    decay: bool = True
    """Decay the learning rate to 0 over the steps (cosine schedule)."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 2_000
    """Steps of each fit, an integer."""
    num_samples: Annotated[int, Field(ge=1, lt=2**31)] = 10
    """Samples in one gradient estimate, an integer."""
    fits: Annotated[int, Field(ge=2, le=2**20)] = 200
    """Fits with each estimator, an integer. All have the same start and different random numbers."""
    replicates: Annotated[int, Field(ge=2, le=2**40)] = 10_000
    """Gradient estimates behind the table of gradients, an integer."""
    begin: tuple[float, float] | None = None
    """Start, as MU SIGMA. Default: MU two standard deviations above the mean of the data, SIGMA twice that of the data."""
