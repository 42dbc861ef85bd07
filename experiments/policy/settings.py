"""Which policy gradient is right, which is biased, and which trains best?

python -m experiments.policy
"""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from experiments.common.settings import ONCE, ExperimentSettings, PathText

Part = Literal["sequences", "grid", "cartpole"]
WAYS = (
    "reinforce",
    "batch_mean",
    "rloo",
    "dr_grpo",
    "grpo",
    "rloo+sequence_mean",
    "rloo+token_mean",
    "grpo+sequence_mean",
    "grpo+token_mean",
    "ppo_first_step",
    "ppo",
    "off_policy",
    "off_policy+weights",
)
PENALTIES = (
    "none", "k1_reward", "k2_reward", "k3_reward", "k1_loss", "k2_loss", "k3_loss", "k2_token_loss", "k3_token_loss",
)  # fmt: skip
Method = Literal["reinforce", "reward_to_go", "learned_baseline", "rloo", "rloo_to_go"]
METHODS: tuple[Method, ...] = ("reinforce", "reward_to_go", "learned_baseline", "rloo", "rloo_to_go")


class PolicySettings(ExperimentSettings):
    """Policy gradients in three parts: a tiny language model, a grid world, and a network that balances a pole.

    sequences: a softmax policy over all sequences of a few tokens, and several prompts. The mean and the variance of each
    estimator are exact, from all groups of answers. grid: a 5 x 5 world with wind, and the exact gradient by backward
    recursion. cartpole: learning curves at equal steps of the environment, and the noise of the gradient.
    """

    parts: Annotated[tuple[Part, ...], Field(min_length=1), ONCE] = ("sequences", "grid", "cartpole")
    """Parts to run."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = WAYS
    """sequences: names of estimators."""
    penalties: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = PENALTIES
    """sequences: which estimate of the KL divergence to subtract, and where: in the reward, or as a loss."""
    vocabulary: Annotated[int, Field(ge=3, le=5)] = 3
    """sequences: number of tokens, the end token included, an integer from 3 to 5."""
    length: Annotated[int, Field(ge=2, le=6)] = 4
    """sequences: the largest number of tokens of an answer, an integer from 2 to 6."""
    group: Annotated[int, Field(ge=2, le=64)] = 4
    """sequences: answers to each prompt in one gradient, an integer."""
    beta: Annotated[float, Field(ge=0)] = 0.1
    """sequences: the factor of the KL divergence in the objective."""
    training_steps: Annotated[int, Field(ge=1, lt=2**31)] = 400
    """sequences: batches in a training run, an integer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """sequences: learning rate of Adam."""
    runs: Annotated[int, Field(ge=2, le=4096)] = 32
    """sequences: training runs of each estimator, an integer."""
    replicates: Annotated[int, Field(ge=100, le=2**40)] = 10_000
    """sequences: measured gradients that are compared with the exact mean, an integer."""
    horizon: Annotated[int, Field(ge=2, le=200)] = 20
    """grid: the largest number of steps of an episode, an integer."""
    wind: Annotated[float, Field(ge=0, le=1)] = 0.2
    """grid: the probability that the wind pushes one cell down after a move."""
    decays: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), ONCE] = (
        0.0,
        0.5,
        0.8,
        0.95,
        1.0,
    )
    """grid: lambda of generalised advantage estimation, each from 0 to 1."""
    grid_episodes: Annotated[int, Field(ge=2, le=4096)] = 16
    """grid: episodes in one gradient, an integer."""
    grid_replicates: Annotated[int, Field(ge=100, le=2**40, multiple_of=2)] = 4_000
    """grid: gradients behind each mean and variance, an even integer."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1), ONCE] = METHODS
    """cartpole: estimators that train the network."""
    env_steps: Annotated[int, Field(ge=100, lt=2**31)] = 80_000
    """cartpole: steps of the environment in a training run, an integer. All estimators get as many."""
    episodes: Annotated[int, Field(ge=2, le=4096)] = 16
    """cartpole: episodes in one gradient, an integer, a multiple of --same-start."""
    same_start: Annotated[int, Field(ge=2, le=4096)] = 4
    """cartpole: episodes from the same first state, an integer: the groups of rloo."""
    hidden: Annotated[int, Field(ge=2, le=1024)] = 64
    """cartpole: units of each of the two tanh layers, an integer. 64 give 4,610 parameters."""
    neural_rate: Annotated[float, Field(gt=0)] = 0.01
    """cartpole: learning rate of Adam."""
    seeds: Annotated[int, Field(ge=2, le=256)] = 8
    """cartpole: training runs of each estimator, an integer."""
    noise_replicates: Annotated[int, Field(ge=4, le=2**30, multiple_of=2)] = 64
    """cartpole: gradients behind the noise, an even integer."""
    every: Annotated[int, Field(ge=1, lt=2**31)] = 20
    """cartpole: updates between checkpoints, an integer."""
    resume: PathText | None = None
    """Folder of a run to continue with the same settings. It continues the training of the network."""

    @field_validator("estimators", "penalties")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = WAYS if info.field_name == "estimators" else PENALTIES
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{unknown[0]!r} is unknown; there are: {', '.join(known)}")
        return names

    @field_validator("same_start")
    @classmethod
    def _groups(cls, value: int, info: ValidationInfo) -> Any:
        episodes = info.data.get("episodes", value)
        if episodes % value:
            raise ValueError(f"{value} does not divide the {episodes} episodes of --episodes; give a divisor")
        return value
