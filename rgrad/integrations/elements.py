"""Estimates for each element of a site in plates, from the costs of that element only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.backend.noise import split
from rgrad.distributions.admission import changed, given, parts
from rgrad.distributions.wrappers import elementary
from rgrad.protocols import Estimator

ELEMENTS = "rgrad_elements"  # the axis of the elements


class Elements(NamedTuple):
    """The elements of a batch of distributions of one family."""

    of: Any
    """The batch."""
    one: Any
    """The family, with the parameters of the batch."""
    parameters: dict[str, Array]
    """Of each element. The shapes start with the number of elements."""

    def estimate(self, estimator: Estimator, f: Callable[[Array], Array], key: Array) -> Array:
        """The estimate of each element, of the shape of the batch.

        Args:
            f: maps a sample of the batch to one cost for each element. An element may change only its own cost.
        """
        batch = self.of.batch_shape
        count = len(jax.tree.leaves(self.parameters)[0])

        def estimated(key: Array, parameters: dict[str, Array]) -> Array:
            def own(x: Array) -> Array:
                # What is gathered is the same for all elements, so f runs once for all of them.
                every = lax.all_gather(x, ELEMENTS).reshape(self.of.shape())
                return jnp.broadcast_to(f(every), batch).reshape(-1)[lax.axis_index(ELEMENTS)]

            (term,) = estimator(own, self.element(parameters), key, 1)
            return term

        keys = split(key, count)
        return jax.vmap(estimated, axis_name=ELEMENTS)(keys, self.parameters).reshape(batch)

    def element(self, parameters: dict[str, Array]) -> Any:
        shape = self.of.event_shape
        inner = shape[: len(shape) - len(self.one.event_shape)]
        return changed(self.one, **parameters, _batch_shape=inner).to_event(len(inner))


def elements_of(q: Any) -> Elements | None:
    """The elements of a batch. None if its parameters cannot be told apart by element.

    Args:
        q: one of NumPyro's distributions.
    """
    one = elementary(q)
    if not isinstance(one, dist.Distribution) or isinstance(one, dist.Delta) or len(list(parts(one))) > 1:
        return None
    own = given(one)
    if any(isinstance(value, Array | np.ndarray) and name not in one.arg_constraints for name, value in own.items()):
        return None
    batch = q.shape()[: len(q.shape()) - len(one.event_shape)]
    parameters = {}
    for name, constraint in one.arg_constraints.items():
        if own.get(name) is not None:
            value = jnp.asarray(own[name])
            value = jnp.broadcast_to(value, (*batch, *value.shape[value.ndim - constraint.event_dim :]))
            parameters[name] = value.reshape(-1, *value.shape[len(q.batch_shape) :])
    return Elements(q, one, parameters)
