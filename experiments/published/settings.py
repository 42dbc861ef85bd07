"""Does this library reproduce published values? Each published value next to ours, with the difference.

python -m experiments.published
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import INTEGER, ONCE, ExperimentSettings

LIMIT = 5.0  # a value disagrees if |z| is larger. By chance: once in 1.7 million normal values
Source = Literal["post", "mohamed", "gal", "naesseth"]
Size = Annotated[Literal[10, 100, 1_000, 10_000, 100_000], INTEGER]
Steps = Annotated[Literal[0, 1, 3, 10], INTEGER]


class PublishedSettings(ExperimentSettings):
    """Published means and variances of gradient estimates, measured again.

    The exit status is 1 if a value disagrees: |z| > 5, where z is the difference divided by the standard errors of both.
    """

    sources: Annotated[tuple[Source, ...], Field(min_length=1), ONCE] = ("post", "mohamed", "gal", "naesseth")
    """Any of post (Javed 2018), mohamed (Mohamed et al. 2020), gal (Gal 2016) and naesseth (Naesseth et al. 2017)."""
    num_samples: Annotated[tuple[Size, ...], Field(min_length=1), ONCE] = (10, 100, 1_000, 10_000, 100_000)
    """For post: samples in one gradient estimate."""
    augmentation: Annotated[tuple[Steps, ...], Field(min_length=1), ONCE] = (0, 1, 3, 10)
    """For naesseth: B, how often the rejection sampler raises the shape."""
    post_replicates: Annotated[int, Field(ge=100, lt=2**31)] = 2_000
    """For post: independent estimates for each num_samples, an integer."""
    replicates: Annotated[int, Field(ge=1000, lt=2**31)] = 1_000_000
    """For mohamed and gal: independent one-sample estimates, an integer."""
    dirichlet_replicates: Annotated[int, Field(ge=1000, lt=2**31)] = 40_000
    """For naesseth: independent estimates from one sample of a hundred numbers, an integer."""
