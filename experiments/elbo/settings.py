"""The ELBO of location-scale families: checks of the equations in Aziz's notes, and the noise of its gradient as D grows.

python -m experiments.elbo
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

Dimension = Annotated[int, Field(ge=1, le=64)]
Distance = Annotated[float, Field(ge=0, le=3)]
Family = Literal["gamma", "beta", "dirichlet"]
SHOWN = (0.1, 1.0)  # the distances that are printed for the families. The figure has all of them


class ElboSettings(ExperimentSettings):
    """Checks equations (4) to (7c) of Aziz's notes for z = mu + C eps, and measures the noise of ELBO gradients.

    Both sides of each equation are evaluated in 64 bits at the smallest and the largest D. For each D, the variance is
    measured for the derivatives with respect to mu, the diagonal of C, and the entries of C below its diagonal. It is
    also measured for Gamma, Beta and Dirichlet.

    Each variance is that of one estimate, summed over the coordinates of a block. The exit status is 1 if an equation or
    the mean of an estimate is wrong: by 1e-5 relative, or by 6 standard errors if it is sampled.
    """

    target: str = "gaussian"
    """gaussian, logistic (synthetic data), or your own as file.py:function, which maps z of shape (D,) to a log density."""
    phi: Literal["normal", "laplace", "student_t"] = "normal"
    """Distribution of one coordinate of eps: normal, laplace or student_t (10 degrees of freedom)."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1), ONCE] = (1, 4, 16, 64)
    """D, each from 1 to 64."""
    distances: Annotated[tuple[Distance, ...], Field(min_length=1), ONCE] = (0.1, 1.0)
    """Distances of q from the target: mu is off by this many standard deviations in each coordinate, C is scaled by e^-distance."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "score_function/sampled",
        "score_function/detached",
        "score_function+leave_one_out/sampled",
        "score_function+leave_one_out/detached",
        "reparameterized/sampled",
        "reparameterized/exact",
        "reparameterized/detached",
    )
    """ESTIMATOR/ENTROPY; an estimator may be your own. ENTROPY is sampled, exact or detached (with reparameterized: sticking the landing)."""
    families: Annotated[tuple[Family, ...], ONCE] = ("gamma", "beta", "dirichlet")
    """Any of gamma, beta and dirichlet, each with a target of the same family. Empty: none."""
    family_estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "score_function/sampled",
        "generalized/exact",
        "rejection/exact",
        "reparameterized/sampled",
        "reparameterized/exact",
    )
    """Like --estimators, for the families. For these, reparameterized uses implicit differentiation."""
    family_dimension: Dimension = 4
    """Number of Gamma variables. A Dirichlet has one more coordinate. A Beta variable is one number."""
    num_samples: Annotated[int, Field(ge=1, lt=2**16)] = 10
    """Samples in one gradient estimate, an integer."""
    replicates: Annotated[int, Field(ge=100, lt=2**31)] = 1_000
    """Independent pairs of estimates behind each variance, an integer."""
