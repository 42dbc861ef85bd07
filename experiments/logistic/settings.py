"""How much does the choice of gradient matter on a real posterior? Bayesian logistic regression, checked against NUTS.

python -m experiments.logistic
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings, PathText

Rate = Annotated[float, Field(gt=0)]


class LogisticSettings(ExperimentSettings):
    """Approximates the posterior of Bayesian logistic regression by a normal q, mean-field and with full covariance.

    y_i ~ Bernoulli(sigmoid(x_i . w)), w ~ N(0, I); with an intercept and standardised columns. Adam maximises the ELBO
    with each estimator, and with the same number of evaluations of log g. The tables show the learning rate with the
    best ELBO. Then the best estimator is used for a fit to all rows, which is compared with a long NUTS run.
    """

    data: PathText | None = None
    """Your own .csv file, with column names in its first line. Default: the breast-cancer data of scikit-learn, 569 x 30."""
    column: str | None = None
    """Target column of --data, with two values."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the rows that is held out from the comparison. 0: compare on all rows."""
    families: Annotated[tuple[Literal["mean_field", "full"], ...], Field(min_length=1), ONCE] = ("mean_field", "full")
    """Families of q: mean_field, or full (with a Cholesky factor)."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "sticking_the_landing",
        "score_function+leave_one_out",
        "score_function",
    )
    """Names of estimators (also score_function+exact_entropy), or your own as module:function."""
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1), ONCE] = (0.003, 0.01, 0.03)
    """Initial learning rates of Adam. They decay to 0 over the steps (cosine schedule)."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 2_000
    """Steps of each fit, an integer."""
    num_samples: Annotated[int, Field(ge=1, lt=2**20)] = 10
    """Samples in one gradient estimate, an integer. Every estimator evaluates log g this many times per step."""
    batch: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Rows in a minibatch, an integer. Each step draws a new one. Default: all rows."""
    seeds: Annotated[int, Field(ge=2, le=2**16)] = 5
    """Fits with each estimator and learning rate, an integer. Intervals are over these fits."""
    points: Annotated[int, Field(ge=1, le=1_000)] = 40
    """Points of a curve, an integer."""
    final_num_samples: Annotated[int, Field(ge=2, lt=2**31)] = 40_000
    """New samples for the final ELBO of each fit, in 64 bits, an integer."""
    nuts: bool = True
    """Compare the fit to all rows with NUTS."""
    chains: Annotated[int, Field(ge=2, le=2**10)] = 4
    """Chains of NUTS, an integer."""
    draws: Annotated[int, Field(ge=4, lt=2**31)] = 2_000
    """Draws of each chain after warm-up, an integer. The warm-up has half as many."""
