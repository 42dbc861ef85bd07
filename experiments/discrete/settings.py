"""Which gradient of an expectation over bits is least noisy, which is wrong, and which one trains?

python -m experiments.discrete
"""

from typing import Annotated

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings


class DiscreteSettings(ExperimentSettings):
    """The toy of the papers: D bits, f(b) = mean (b - t)^2, its gradient in the logits by every estimator.

    Variance and bias at one point, and training curves of Adam. The nearer t is to 1/2, the less f tells the bits apart.
    """

    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "enumerated",
        "score_function",
        "score_function+leave_one_out",
        "score_function+optimal",
        "measure_valued",
        "arm",
        "disarm",
        "rebar",
        "rebar+trained",
        "gumbel_softmax",
        "straight_through",
    )
    """By name. The last two are biased."""
    bits: Annotated[int, Field(ge=1, le=16)] = 6
    """D, an integer up to 16: all 2^D values are enumerated by one of the estimators."""
    targets: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), ONCE] = (0.499, 0.45)
    """t, each from 0 to 1."""
    logit: Annotated[float, Field(ge=-20, le=20)] = 0.0
    """Of every bit, where the gradient is measured and training begins."""
    num_samples: Annotated[int, Field(ge=1, lt=2**20)] = 10
    """Of one gradient estimate, an integer (pairs for arm and disarm)."""
    replicates: Annotated[int, Field(ge=2, le=2**40)] = 20_000
    """How many independent estimates the variance is measured over, an integer."""
    fits: Annotated[int, Field(ge=2, le=2**20)] = 32
    """How many training runs of each, an integer."""
    steps: Annotated[int, Field(ge=1, le=2**31)] = 1_000
    """Of training, an integer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Of Adam."""
    points: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Of a training curve, an integer."""
