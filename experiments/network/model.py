"""The classifier: four layers of weights in plain JAX, Equinox or Flax NNX, and its loss for one image."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.common.errors import UsageError
from experiments.network.settings import Family

LAYERS = ("encoder", "latent", "decoder", "output")
CLASSES = 10
Network = Mapping[str, Any]
"""A callable layer for each name: a pytree, whatever library made it."""


class PlainLinear(NamedTuple):
    weight: Array
    """Shape `(out, in)`."""
    bias: Array

    def __call__(self, x: Array) -> Array:
        return self.weight @ x + self.bias


def _equinox(weight: Array, bias: Array) -> Any:
    import equinox as eqx

    layer = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (weight, bias))


def _nnx(weight: Array, bias: Array) -> Any:
    from flax import nnx

    layer = nnx.Linear(weight.shape[1], weight.shape[0], rngs=nnx.Rngs(0))
    layer.kernel, layer.bias = nnx.Param(weight.T), nnx.Param(bias)
    return layer


class Library(NamedTuple):
    package: str | None
    """What must be installed."""
    layer: Callable[[Array, Array], Any]
    """Maps a weight and a bias to a layer."""


LIBRARIES = {"equinox": Library("equinox", _equinox), "nnx": Library("flax", _nnx), "jax": Library(None, PlainLinear)}


def library_of(asked: str) -> str:
    """The library to use: the one that is asked for, or for `auto` the first that is installed.

    Raises:
        UsageError: it is not installed.
    """
    installed = [n for n, of in LIBRARIES.items() if of.package is None or importlib.util.find_spec(of.package)]
    if asked == "auto":
        return installed[0]
    if asked not in installed:
        package = LIBRARIES[asked].package
        raise UsageError(f"--library {asked}: {package} is not installed; pip install {package}, or use --library jax")
    return asked


def initial_network(key: Array, family: Family, pixels: int, hidden: int, units: int, library: str) -> Network:
    """Weights uniform on +- sqrt(6 / (in + out)) (Glorot and Bengio 2010), biases 0. They do not depend on the library."""
    shapes = ((hidden, pixels), (parameters_of(family, units), hidden), (hidden, units), (CLASSES, hidden))
    sizes = np.array([m * n for m, n in shapes])
    # One draw for all weights: each further draw takes a quarter of a second to compile.
    parts = jnp.split(jax.random.uniform(key, (sizes.sum(),), minval=-1.0, maxval=1.0), sizes.cumsum()[:-1])
    layer = LIBRARIES[library].layer
    return {
        name: layer((6 / (m + n)) ** 0.5 * part.reshape(m, n), jnp.zeros(m))
        for name, part, (m, n) in zip(LAYERS, parts, shapes, strict=True)
    }


def parameters_of(family: Family, units: int) -> int:
    """How many parameters this many units have."""
    return units if family == "bernoulli" else 2 * units


def units_of(network: Network, x: Array, family: Family) -> Any:
    """The distribution of the stochastic units for one image."""
    return units_at(network["latent"](jnp.tanh(network["encoder"](x))), family)


def units_at(parameters: Array, family: Family) -> Any:
    """Independent units with these logits, or with these means and logarithms of standard deviations."""
    if family == "bernoulli":
        return dist.Bernoulli(logits=parameters).to_event(1)
    loc, log_scale = jnp.split(parameters, 2)
    return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)


def scores(network: Network, z: Array) -> Array:
    """The logits of the classes, given the stochastic units."""
    return network["output"](jnp.tanh(network["decoder"](jnp.asarray(z, float))))


def image_loss(
    network: Network, x: Array, label: Array, key: Array, n: int, estimator: rgrad.Estimator, family: Family
) -> Array:
    """An estimate of the loss `E[-log p(label | z)]` of one image, from n samples of its units z."""

    def surprise(z: Array) -> Array:
        out = scores(network, z)
        return jax.nn.logsumexp(out) - out[label]

    return rgrad.expect(surprise, units_of(network, x, family), key, n, estimator)


def batch_loss(
    network: Network, x: Array, labels: Array, key: Array, n: int, estimator: rgrad.Estimator, family: Family
) -> Array:
    """The mean over a batch. Each image has its own samples."""
    one = lambda x, label, key: image_loss(network, x, label, key, n, estimator, family)
    return jnp.mean(jax.vmap(one)(x, labels, jax.random.split(key, len(x))))
