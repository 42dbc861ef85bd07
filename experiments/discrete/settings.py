"""Which gradient of an expectation over bits or categories has the least noise, which is biased, and which trains best?

python -m experiments.discrete
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings


class DiscreteSettings(ExperimentSettings):
    """The toy problem of the literature, D bits and f(b) = mean (b - t)^2; and one of K categories at equal evaluations.

    Gradients are with respect to the logits. Reports variance and bias at one point, and training curves of Adam. The
    closer t is to 1/2, the less f depends on a bit.
    """

    problems: Annotated[tuple[Literal["bits", "categories"], ...], Field(min_length=1), ONCE] = ("bits", "categories")
    """Which problems: bits, with as many samples for each estimator; categories, with as many evaluations of f."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "enumerated",
        "score_function",
        "score_function+leave_one_out",
        "score_function+optimal",
        "measure_valued",
        "unordered",
        "unordered+6",
        "arm",
        "disarm",
        "rebar",
        "rebar+trained",
        "gumbel_softmax",
        "straight_through",
        "reinmax",
        "gumbel_rao",
    )
    """Names of estimators. The last four are biased. An estimator without a rule for a problem is left out of it."""
    bits: Annotated[int, Field(ge=1, le=16)] = 6
    """D, an integer up to 16. One of the estimators enumerates all 2^D values."""
    classes: Annotated[int, Field(ge=2, le=1_000)] = 20
    """K, an integer."""
    targets: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), ONCE] = (0.499, 0.45)
    """t, each from 0 to 1."""
    logit: Annotated[float, Field(ge=-20, le=20)] = 0.0
    """Logit of every bit, or of the first category, where the gradient is measured and training starts."""
    num_samples: Annotated[int, Field(ge=1, lt=2**20)] = 10
    """Samples in one gradient estimate of bits, an integer (pairs for arm and disarm)."""
    evaluations: Annotated[int, Field(ge=1, lt=2**20)] = 12
    """Evaluations of f in one gradient estimate of categories, an integer. (The exact sum takes K.)"""
    replicates: Annotated[int, Field(ge=2, le=2**40)] = 20_000
    """Independent estimates behind each variance, an integer."""
    fits: Annotated[int, Field(ge=2, le=2**20)] = 32
    """Training runs of each estimator, an integer."""
    steps: Annotated[int, Field(ge=1, le=2**31)] = 1_000
    """Training steps, an integer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Learning rate of Adam."""
    points: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Points of a training curve, an integer."""
