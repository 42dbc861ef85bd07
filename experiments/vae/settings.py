"""Does the reparameterization trick train a variational autoencoder better than the score function, at equal compute?

python -m experiments.vae
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings, PathText


class VaeSettings(ExperimentSettings):
    """Trains a variational autoencoder on 1,500 scikit-learn digits (8 x 8) and reports the ELBO of the other 297.

    q(z|x) = N(mu(x), sigma(x)^2), p(z) = N(0, I), p(x|z) Bernoulli or Gaussian; each network has one hidden tanh layer.
    Equal compute: each step of Adam uses the same images, number of samples and network evaluations. Checkpoints are in
    the folder of the results. The last ones stay there after Ctrl-C.
    """

    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function+leave_one_out",
    )
    """Names of estimators, or your own as module:function. The first is compared with each of the others."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """bernoulli: a pixel is on if its level is 8 or more of 16. gaussian: level / 16, with one learned noise scale."""
    entropy: Literal["detached", "sampled", "exact"] = "detached"
    """Form of the ELBO in training, see rgrad.elbo. The score function is least noisy with detached."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Hidden units of each network, an integer."""
    latents: Annotated[int, Field(ge=1, le=1024)] = 16
    """Dimension of z, an integer."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = 64
    """Images per step, drawn with replacement, an integer."""
    num_samples: Annotated[int, Field(ge=1, le=1024)] = 2
    """Samples of z for each image in a step, an integer. Leave-one-out needs at least 2."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    """Learning rate of Adam."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 4_000
    """Training steps, an integer, a multiple of --every."""
    every: Annotated[int, Field(ge=1, lt=2**31)] = 100
    """Steps between checkpoints, an integer. The curves have a point at each checkpoint."""
    seeds: Annotated[int, Field(ge=2, le=1024)] = 8
    """Training runs of each estimator, an integer. Each has its own initial weights and random numbers."""
    bound_k: Annotated[int, Field(ge=1, le=2**16)] = 100
    """K of the importance-weighted bound on log p(x) after training, an integer."""
    resume: PathText | None = None
    """Folder of a run to continue with the same settings. --steps may be larger."""
