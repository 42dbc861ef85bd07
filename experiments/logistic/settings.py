"""What is the choice of gradient worth on a real posterior? Bayesian logistic regression by ELBO, checked against NUTS.

python -m experiments.logistic
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LogisticSettings(ExperimentSettings):
    """Bayesian logistic regression, its posterior by a normal q: mean-field, and with a full covariance.

    y_i ~ Bernoulli(sigmoid(x_i . w)), w ~ N(0, I); columns standardised, an intercept. Adam climbs the ELBO by each
    estimator with the same number of evaluations of log g; the rate with the best ELBO is shown. Then the best of all
    is fitted to all rows, and held against a long NUTS run.
    """

    data: str | None = None
    """A .csv file of your own, with names in its first line. Default: the breast-cancer data of scikit-learn, 569 x 30."""
    column: str | None = None
    """The column of --data that is the target, of two values."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The share of the rows that the comparison does not see, chosen by the seed; 0 to compare on all rows."""
    families: Annotated[tuple[Literal["mean_field", "full"], ...], Field(min_length=1), ONCE] = ("mean_field", "full")
    """Of q: mean_field, full (a Cholesky factor)."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "sticking_the_landing",
        "score_function+leave_one_out",
        "score_function",
    )
    """Also score_function+exact_entropy, or your own as module:function."""
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1), ONCE] = (0.003, 0.01, 0.03)
    """Of Adam at the start; they fall to 0 over the steps, as half a cosine."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 2_000
    """Of each fit, an integer."""
    num_samples: Annotated[int, Field(ge=1, lt=2**20)] = 10
    """Of one gradient estimate, an integer: so many evaluations of log g in a step, for every estimator."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Rows in a minibatch, an integer; a new one for each step. Default: all rows."""
    seeds: Annotated[int, Field(ge=2, le=2**16)] = 5
    """How many fits of each kind, an integer; intervals are over them."""
    points: Annotated[int, Field(ge=1, le=1_000)] = 40
    """Of a curve, an integer."""
    final_num_samples: Annotated[int, Field(ge=2, lt=2**31)] = 40_000
    """Fresh ones behind the final ELBO of each fit, in 64 bits, an integer."""
    nuts: bool = True
    """Hold the fit to all rows against NUTS."""
    chains: Annotated[int, Field(ge=2, le=2**10)] = 4
    """Of NUTS, an integer."""
    draws: Annotated[int, Field(ge=4, lt=2**31)] = 2_000
    """Of each chain, after half as many to warm up, an integer."""
