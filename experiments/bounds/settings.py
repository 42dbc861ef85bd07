"""Does a tighter bound give a better gradient? The signal-to-noise ratio against K, near the optimum and far from it.

python -m experiments.bounds
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

Rule = Literal["reparameterized", "doubly_reparameterized", "sticking_the_landing", "score_function", "vimco"]
Samples = Annotated[int, Field(ge=1, lt=2**20)]
Distance = Annotated[float, Field(ge=0, le=1e3)]
RESOLVED = 2.0  # a ratio below this many noise floors is mostly noise


class BoundsSettings(ExperimentSettings):
    """The signal-to-noise ratio of gradient estimates of the K-sample bound, in the linear-Gaussian model.

    z ~ N(mu, I), x|z ~ N(z, I), q(z|x) = N(A x + b, 2/3 I); A and b are parameters of the inference network,
    mu of the model. Each gradient is that of the mean bound over all data points, with K independent samples for each
    point. The ratio |mean| / sd is averaged over the coordinates.
    """

    estimators: Annotated[tuple[Rule, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "doubly_reparameterized",
        "sticking_the_landing",
    )
    """Any of reparameterized (IWAE), doubly_reparameterized (DReG), sticking_the_landing, score_function and vimco."""
    k: Annotated[tuple[Samples, ...], Field(min_length=1), ONCE] = (1, 4, 16, 64, 256)
    """K, samples in one bound, integers."""
    perturbations: Annotated[tuple[Distance, ...], Field(min_length=1), ONCE] = (0.01, 0.5)
    """Distances from the optimum: standard deviation of the noise that is added to each parameter."""
    data_points: Annotated[int, Field(ge=1, lt=2**20)] = 1_024
    """Number of x drawn from the model, an integer."""
    dimension: Annotated[int, Field(ge=1, le=200)] = 20
    """Dimension of x and z, an integer."""
    replicates: Annotated[int, Field(ge=20, lt=2**31)] = 60
    """Independent gradients behind each ratio, an integer. A ratio below 1/sqrt(replicates) cannot be told from 0."""
