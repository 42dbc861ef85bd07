"""Which loss should fit a NumPyro model with a discrete latent? A mixture with an assignment of every datum.

python -m experiments.svi
"""

from typing import Annotated

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings, PathText

Rate = Annotated[float, Field(gt=0)]


class SviSettings(ExperimentSettings):
    """Fits a mixture of two normals to one column of data, with NumPyro's SVI and each loss.

    z_i ~ Bernoulli is the assignment of datum i, in a plate. The guide is mean-field, so its ELBO and the gradient of it
    are known exactly. Reports the variance and the bias of each gradient, ELBO curves at equal particles and at equal
    time, and the posterior compared with a long NUTS run.
    """

    data: PathText | None = None
    """Your own .csv file, with column names in its first line. Default: the alcohol in scikit-learn's wines, 178 rows."""
    column: str | None = None
    """Column of --data to fit. It is standardised."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "Trace_ELBO",
        "TraceGraph_ELBO",
        "TraceEnum_ELBO",
        "score_function",
        "score_function+leave_one_out",
        "disarm",
        "enumerated",
        "Trace_ELBO+marginal",
    )
    """NumPyro's losses, and estimators of z in SVILoss: by name, or your own as module:function."""
    num_particles: Annotated[int, Field(ge=1, lt=2**16)] = 8
    """Particles of every loss, an integer."""
    replicates: Annotated[int, Field(ge=2, le=2**40)] = 20_000
    """Independent gradients behind each variance, an integer."""
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1), ONCE] = (0.03, 0.1, 0.3, 1.0)
    """Initial learning rates of Adam. They decay to 0 over the steps (cosine schedule)."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 3_000
    """Steps of each fit at equal particles, an integer. The fastest of these fits sets the time of those at equal time."""
    seeds: Annotated[int, Field(ge=2, le=2**16)] = 8
    """Fits with each loss and learning rate, an integer. Intervals are over these fits."""
    points: Annotated[int, Field(ge=1, le=1_000)] = 40
    """Points of a curve, an integer."""
    nuts: bool = True
    """Compare the posteriors with NUTS."""
    chains: Annotated[int, Field(ge=2, le=2**10)] = 4
    """Chains of NUTS, an integer."""
    draws: Annotated[int, Field(ge=4, lt=2**31)] = 2_000
    """Draws of each chain after warm-up, an integer. The warm-up has half as many."""
