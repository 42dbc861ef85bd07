"""The ELBO of location-scale families: the notes' equations checked, and how noisy its gradient is as D grows.

python -m experiments.elbo
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

Dimension = Annotated[int, Field(ge=1, le=64)]
Distance = Annotated[float, Field(ge=0, le=3, allow_inf_nan=False)]
Family = Literal["gamma", "beta", "dirichlet"]
SHOWN = (0.1, 1.0)  # the distances of the families that are printed; the others are in the figure


class ElboSettings(ExperimentSettings):
    """For z = mu + C eps: the notes' equations (4), (5), (6h) and (7c) as numbers, both sides, in 64 bits, at the smallest D
    and the largest; and for each D the variance of gradient estimates of the ELBO in mu, the diagonal of C and what is below
    it. The same for Gamma, Beta and Dirichlet.

    A variance is that of one estimate, summed over the coordinates of a block. Exit status 1 where an equation, or the
    mean of an estimate, is off: by 1e-5 relative, or where sampled by 6 standard errors.
    """

    target: str = "gaussian"
    """gaussian, logistic (made data), or your own file.py:function, z of shape (D,) to a log density."""
    phi: Literal["normal", "laplace", "student_t"] = "normal"
    """The law of one coordinate of eps: normal, laplace or student_t (10 degrees of freedom)."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1), ONCE] = (1, 4, 16, 64)
    """D, each from 1 to 64."""
    distances: Annotated[tuple[Distance, ...], Field(min_length=1), ONCE] = (0.1, 1.0)
    """From where q is the target: mu so many of its standard deviations off in every coordinate, C e^-distance times as wide."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "score_function/sampled",
        "score_function/detached",
        "score_function+leave_one_out/sampled",
        "score_function+leave_one_out/detached",
        "reparameterized/sampled",
        "reparameterized/exact",
        "reparameterized/detached",
    )
    """ESTIMATOR/ENTROPY, also your own; an entropy is sampled, exact or detached (reparameterized: sticking the landing)."""
    families: Annotated[tuple[Family, ...], ONCE] = ("gamma", "beta", "dirichlet")
    """Of gamma, beta and dirichlet, each with a target of its own kind; none where empty."""
    family_estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "score_function/sampled",
        "generalized/exact",
        "rejection/exact",
        "reparameterized/sampled",
        "reparameterized/exact",
    )
    """The same for the families; reparameterized is by implicit differentiation there."""
    family_dimension: Dimension = 4
    """How many Gammas; a Dirichlet has one coordinate more. Beta is one number."""
    num_samples: Annotated[int, Field(ge=1, lt=2**16)] = 10
    """Of one gradient estimate, an integer."""
    replicates: Annotated[int, Field(ge=100, lt=2**31)] = 1_000
    """How many independent pairs of estimates a variance is measured over, an integer."""
