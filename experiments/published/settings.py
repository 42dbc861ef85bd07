"""Does this library give what others have published? Each published value beside ours, and how far they are apart.

python -m experiments.published
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

LIMIT = 5.0  # |z| beyond which a value disagrees: by accident, once in 1.7 million values that are normal
Source = Literal["post", "mohamed", "gal", "naesseth"]
Size = Literal[10, 100, 1_000, 10_000, 100_000]
Steps = Literal[0, 1, 3, 10]


class PublishedSettings(ExperimentSettings):
    """Published means and variances of gradient estimates, measured again.

    Exit status 1 where one disagrees: |z| > 5, with z the distance in standard errors, ours and the source's together.
    """

    sources: Annotated[tuple[Source, ...], Field(min_length=1), ONCE] = ("post", "mohamed", "gal", "naesseth")
    """Of post (Javed 2018), mohamed (Mohamed et al. 2020), gal (Gal 2016) and naesseth (Naesseth et al. 2017)."""
    num_samples: Annotated[tuple[Size, ...], Field(min_length=1), ONCE] = (10, 100, 1_000, 10_000, 100_000)
    """Of the post's N: how many samples an estimate is made of."""
    augmentation: Annotated[tuple[Steps, ...], Field(min_length=1), ONCE] = (0, 1, 3, 10)
    """Of naesseth's B: how often the rejection sampler raises the shape."""
    post_replicates: Annotated[int, Field(ge=100, lt=2**31)] = 2_000
    """How many independent estimates of each size for the post, which has up to 100,000 samples in one, an integer."""
    replicates: Annotated[int, Field(ge=1000, lt=2**31)] = 1_000_000
    """How many independent estimates, of one sample each, for mohamed and gal, an integer."""
    dirichlet_replicates: Annotated[int, Field(ge=1000, lt=2**31)] = 40_000
    """How many independent estimates, of one sample of a hundred numbers each, for naesseth, an integer."""
