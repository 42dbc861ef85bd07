"""The log-determinant `log |det dz/deps|` of a map of noise, elementwise or not."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rgrad.tracing.dependence import dependence

LARGEST = 64  # a full Jacobian is formed for at most this many coordinates

Map = Callable[[Array], Array]


def elementwise(forward: Map, eps: Array) -> tuple[Array, Array]:
    """`forward(eps)` and the log-determinant per sample, shape `(n,)`. The map must be elementwise."""
    live, slope = jax.jvp(forward, (eps,), (jnp.ones_like(eps),))  # the diagonal of the Jacobian
    return live, jnp.log(jnp.abs(slope)).reshape(len(eps), -1).sum(1)


def of_any_map(forward: Map, eps: Array) -> tuple[Array, Array]:
    """The same for any map of each sample. The full Jacobian is used unless the trace shows an elementwise map.

    The result is nan if the map mixes samples, or if it is not elementwise and has more than `LARGEST` coordinates.
    """
    n, size = len(eps), int(np.prod(eps.shape[1:]))
    if _shown_elementwise(forward, eps):
        return elementwise(forward, eps)
    uneven = 1 + jnp.sin(12.9898 * jnp.arange(eps.size, dtype=eps.dtype)).reshape(eps.shape) / 2
    along = jax.jvp(forward, (eps,), (uneven,))[1].reshape(n, size)
    if size > LARGEST:
        live, slope = jax.jvp(forward, (eps,), (jnp.ones_like(eps),))
        log_det = jnp.log(jnp.abs(slope)).reshape(n, size).sum(1)
        expected = slope.reshape(n, size) * uneven.reshape(n, size)
    else:
        basis = jnp.eye(size, dtype=eps.dtype).reshape(size, 1, *eps.shape[1:])
        column = lambda direction: jax.jvp(forward, (eps,), (jnp.broadcast_to(direction, eps.shape),))[1].reshape(
            n, size
        )
        live, columns = forward(eps), jax.vmap(column, out_axes=2)(basis)  # (n, size, size)
        log_det = jnp.linalg.slogdet(columns)[1]
        expected = (columns @ uneven.reshape(n, size, 1))[..., 0]
    off = lax.stop_gradient(jnp.abs(along - expected)).max(1)
    mixed = ~(off <= 1e-3 * lax.stop_gradient(jnp.abs(expected)).max(1))
    bad = jnp.where(mixed, jnp.nan, 1.0)  # a factor, so that the derivatives are nan too
    return live * bad.reshape(n, *(1,) * (live.ndim - 1)), log_det * bad


def _shown_elementwise(forward: Map, eps: Array) -> bool:
    """Whether the trace for two samples shows that each output depends only on its own input."""
    two = jax.ShapeDtypeStruct((min(2, len(eps)), *eps.shape[1:]), eps.dtype)
    size = int(np.prod(two.shape))
    if size > 512:
        return False
    try:
        found = dependence(forward, two, np.arange(size))
    except (TypeError, ValueError):  # the map accepts only n samples
        return False
    return found.shape == (size, *two.shape) and not (found.reshape(size, size) & ~np.eye(size, dtype=bool)).any()
