"""Does the reparameterization trick train a variational autoencoder better than the score function, at equal compute?

python -m experiments.vae
"""

from typing import Annotated, Literal

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings


class VaeSettings(ExperimentSettings):
    """A variational autoencoder of 1,500 scikit-learn digits, 8 x 8: the ELBO of the 297 others, by gradient estimator.

    q(z|x) = N(mu(x), sigma(x)^2), p(z) = N(0, I), p(x|z) Bernoulli or Gaussian; a network has one hidden layer of tanh.
    Equal compute: each step of Adam has the same images, samples and network evaluations. Checkpoints are kept in the
    folder of the results, and Ctrl-C leaves the last ones there.
    """

    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function+leave_one_out",
    )
    """By name, or your own as module:function; the first is compared with each of the others."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """bernoulli: a pixel is on at 8 or more of its 16 levels; gaussian: of level / 16, with one noise for all, learned."""
    entropy: Literal["detached", "sampled", "exact"] = "detached"
    """How the ELBO is written in training (see rgrad.elbo); the score function is least noisy with detached."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Units of each network, an integer."""
    latents: Annotated[int, Field(ge=1, le=1024)] = 16
    """Of z, an integer."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = 64
    """Images of a step, drawn with replacement, an integer."""
    num_samples: Annotated[int, Field(ge=1, le=1024)] = 2
    """Of z for each image of a step, an integer; leave-one-out needs 2."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.002
    """Of Adam."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 4_000
    """Of training, an integer; a multiple of every."""
    every: Annotated[int, Field(ge=1, lt=2**31)] = 100
    """Steps from one checkpoint, and one point of the curves, to the next, an integer."""
    seeds: Annotated[int, Field(ge=2, le=1024)] = 8
    """How many training runs by each estimator, of other weights and other random numbers, an integer."""
    bound_k: Annotated[int, Field(ge=1, le=2**16)] = 100
    """K of the importance-weighted bound on log p(x) at the end, an integer."""
    resume: str | None = None
    """The folder of a run to go on with, under the same settings; --steps may grow."""
