"""A variational autoencoder in plain pytrees: two networks, and the bound for training."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

Likelihood = Literal["bernoulli", "gaussian"]
Params = dict[str, Any]


def initial_params(key: Array, pixels: int, hidden: int, latents: int) -> Params:
    """`encoder` and `decoder`, each with one hidden layer, and `log_noise`, which only a Gaussian likelihood uses.

    Weights are uniform on +- sqrt(6 / (in + out)) (Glorot and Bengio 2010), biases 0.
    """
    shapes = ((pixels, hidden), (hidden, 2 * latents), (latents, hidden), (hidden, pixels))
    sizes = np.array([m * n for m, n in shapes])
    # One draw for all weights. Each further draw takes a quarter of a second to compile.
    parts = jnp.split(jax.random.uniform(key, (sizes.sum(),), minval=-1.0, maxval=1.0), sizes.cumsum()[:-1])
    layers = [
        {"weight": (6 / (m + n)) ** 0.5 * part.reshape(m, n), "bias": jnp.zeros(n)}
        for (m, n), part in zip(shapes, parts, strict=True)
    ]
    return {"encoder": layers[:2], "decoder": layers[2:], "log_noise": jnp.asarray(-1.0)}


def network(layers: list[dict[str, Array]], x: Array) -> Array:
    """Affine maps of one input vector, with tanh between them."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x @ layers[-1]["weight"] + layers[-1]["bias"]


def posterior(params: Params, x: Array) -> Any:
    """`q(z|x) = N(mu(x), sigma(x)^2)`, shape `(latents,)`, from the encoder."""
    mu, log_sigma = jnp.split(network(params["encoder"], x), 2)
    return dist.Normal(mu, jnp.exp(log_sigma)).to_event(1)


def prior(latents: int) -> Any:
    """`p(z) = N(0, I)`."""
    return dist.Normal(jnp.zeros(latents), 1.0).to_event(1)


def image(params: Params, z: Array, likelihood: Likelihood) -> Any:
    """`p(x|z)`, shape `(pixels,)`, from the decoder. `image(...).mean` is the image."""
    out = network(params["decoder"], z)
    if likelihood == "bernoulli":
        return dist.Bernoulli(logits=out).to_event(1)
    return dist.Normal(out, jnp.exp(params["log_noise"])).to_event(1)


def log_joint(params: Params, x: Array, likelihood: Likelihood) -> Any:
    """`z -> log p(x|z) + log p(z)` for one image."""
    return lambda z: image(params, z, likelihood).log_prob(x) + prior(len(z)).log_prob(z)
