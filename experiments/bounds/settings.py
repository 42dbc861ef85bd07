"""Does a tighter bound give a better gradient? The signal-to-noise ratio against K, near the optimum and far from it.

python -m experiments.bounds
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

Rule = Literal["reparameterized", "doubly_reparameterized", "sticking_the_landing", "score_function", "vimco"]
Samples = Annotated[int, Field(ge=1, lt=2**20)]
Distance = Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)]
RESOLVED = 2.0  # noise floors; a ratio under so many of them is mostly noise


class BoundsSettings(ExperimentSettings):
    """The signal-to-noise ratio of gradient estimates of the K-sample bound, in the linear-Gaussian model.

    z ~ N(mu, I), x|z ~ N(z, I), q(z|x) = N(A x + b, 2/3 I); A and b are the inference network's, mu the model's. A
    gradient is that of the mean bound over all data points, each with K samples of its own; its ratio |mean| / sd is
    averaged over the coordinates.
    """

    estimators: Annotated[tuple[Rule, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "doubly_reparameterized",
        "sticking_the_landing",
    )
    """Of reparameterized (IWAE), doubly_reparameterized (DReG), sticking_the_landing, score_function and vimco."""
    k: Annotated[tuple[Samples, ...], Field(min_length=1), ONCE] = (1, 4, 16, 64, 256)
    """K: how many samples a bound is made of, integers."""
    perturbations: Annotated[tuple[Distance, ...], Field(min_length=1), ONCE] = (0.01, 0.5)
    """How far from the optimum: the standard deviation of what is added to each parameter."""
    data_points: Annotated[int, Field(ge=1, lt=2**20)] = 1_024
    """How many x are drawn from the model, an integer."""
    dimension: Annotated[int, Field(ge=1, le=200)] = 20
    """Of x and z, an integer."""
    replicates: Annotated[int, Field(ge=20, lt=2**31)] = 60
    """How many independent gradients each ratio is measured over; 1/sqrt(this) cannot be told from 0."""
