"""Which layers of a network get the noise of its stochastic layer, and how large should the batch be?

python -m experiments.network
"""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from experiments.common.settings import ONCE, ExperimentSettings

Family = Literal["bernoulli", "gaussian"]
IMAGES = 1_797  # of scikit-learn's digits


class NetworkSettings(ExperimentSettings):
    """Measures the gradient of a classifier with a stochastic hidden layer, on scikit-learn's digits, layer by layer.

    The layers: encoder (64 pixels to tanh units), latent (to the parameters of the stochastic units), decoder (to tanh
    units), output (to ten classes). Reports the variance per gradient, the squared mean, the signal-to-noise ratio and the
    noise scale, by estimator and batch size. The noise of the minibatch and that of the estimator are separated.
    """

    families: Annotated[tuple[Family, ...], Field(min_length=1), ONCE] = ("bernoulli", "gaussian")
    """Distributions of the stochastic units. Each has a network of its own."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "enumerated",
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
        "disarm",
        "gumbel_softmax",
        "straight_through",
    )
    """Names of estimators, or your own as module:function. Each is measured for the families that it supports. The first
    unbiased one for a family trains its network."""
    num_samples: Annotated[int, Field(ge=1, lt=2**16)] = 2
    """Samples of the stochastic units for each image, an integer (pairs for arm and disarm)."""
    images: Annotated[int, Field(ge=2, le=IMAGES)] = 1_024
    """Images of the data set, an integer: the full batch. The others test the network."""
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), ONCE] = (16, 128)
    """Images in one gradient, integers. They are drawn without replacement. The full batch is always measured too."""
    steps: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1), ONCE] = (0, 1_000)
    """Numbers of training steps after which the gradient is measured, integers."""
    training_batch: Annotated[int, Field(ge=1)] = 64
    """Images in a training step, an integer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    """Learning rate of Adam."""
    units: Annotated[int, Field(ge=1, le=12)] = 6
    """Stochastic units, an integer up to 12. The exact gradient enumerates all 2^units values of binary ones."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    """Units of each tanh layer, an integer."""
    replicates: Annotated[int, Field(ge=4, multiple_of=2, le=2**40)] = 1_000
    """Independent gradients behind each variance, an even integer."""
    library: Literal["auto", "jax", "equinox", "nnx"] = "auto"
    """What carries the weights. auto: Equinox if it is installed, else Flax NNX, else plain JAX. The numbers are the same."""

    @field_validator("batch_sizes", "training_batch")
    @classmethod
    def _batch(cls, value: Any, info: ValidationInfo) -> Any:
        largest, images = max(value) if isinstance(value, tuple) else value, info.data.get("images", IMAGES)
        if largest > images:
            raise ValueError(f"{largest} is more than the {images:,} images of --images; give fewer")
        return value
