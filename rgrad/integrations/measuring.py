"""The variance of the gradients in NumPyro's SVI."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from numpyro.infer import SVI

from rgrad.measurement.moments import Moments, measure


def measure_svi(svi: SVI, state: Any, key: Array, replicates: int, *args: Any, **kwargs: Any) -> Moments:
    """The moments of the gradient of an SVI loss at a state, for each parameter site.

    Args:
        svi: a `numpyro.infer.SVI`, with any loss.
        state: the state from `svi.init` or `svi.update`.
        key: one PRNG key.
        replicates: the number of independent gradients.
        args, kwargs: the arguments of the model and the guide.

    Returns:
        `Moments` of the gradient per call, a dict by the name of the site. The parameters are unconstrained.

    Example:
        >>> import numpyro, optax
        >>> model = lambda: numpyro.sample("z", dist.Bernoulli(0.3))
        >>> guide = lambda: numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logit", 0.0)))
        >>> svi = numpyro.infer.SVI(model, guide, optax.adam(0.1), rgrad.SVILoss(num_particles=4))
        >>> print(f"{rgrad.measure_svi(svi, svi.init(key), key, 1000).mean['logit']:.1f}")  # the truth is 0.21
        0.2
    """
    start = svi.optim.get_params(state.optim_state)
    fixed = {} if state.mutable_state is None else state.mutable_state

    def loss(params: Any, key: Array) -> Array:
        everything = {**svi.constrain_fn(params), **fixed}
        found: Array = svi.loss.loss(key, everything, svi.model, svi.guide, *args, **kwargs, **svi.static_kwargs)
        return found

    return measure(lambda key: jax.grad(loss)(start, key), key, replicates)
