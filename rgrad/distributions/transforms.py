"""How the input of a transform moves with the parameters if its output is fixed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from numpyro.distributions import transforms as T

from rgrad.distributions.location_scale import Affine


def plus(x: Any, moved: Array | None) -> Any:
    return x if moved is None else x + moved


def parts_of(transforms: Sequence[Any]) -> list[Any]:
    """The transforms one by one, with composed ones taken apart."""
    return [
        part
        for transform in transforms
        for part in (parts_of(transform.parts) if isinstance(transform, T.ComposeTransform) else [transform])
    ]


def stays(transform: Any) -> bool:
    """Whether this is a NumPyro transform without a traced parameter. Other transforms may have hidden ones."""
    if not type(transform).__module__.startswith("numpyro."):
        return False
    try:
        return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(transform))
    except NotImplementedError:  # it contains a user's transform
        return False


def resolved(log_q: Array, loc: Array, scale: Array, over: int = 0) -> Array:
    """`log_q`, or nan if floats near loc are further apart than the scale. Almost all samples are then equal.

    If floats are as far apart as the scale, the mean of the samples still moves correctly with loc and scale, to 1e-5.
    (A sum of normal densities at such distances is nearly constant.)
    """
    size = jnp.abs(lax.stop_gradient(loc))
    apart = (jnp.nextafter(size, jnp.inf) - size) > 1.25 * jnp.abs(lax.stop_gradient(scale))
    return log_q * jnp.where(apart.any(-1) if over else apart, jnp.nan, 1.0)  # so that the derivative is nan too


def moved_back(transform: Any, x: Array, y: Array, moved: Array | None) -> tuple[Array, Array]:
    """How x moves with the parameters if `y + moved` is fixed, and the log-determinant there.

    Args:
        x, y: constants, with `y = transform(x)`.
        moved: an array whose value is 0 and whose derivative is that of y. None means that y is fixed.

    Returns:
        An array whose value is 0 and whose derivatives are those of x, to every order; and the log-determinant. A
        transform without a rule is inverted. The result is then nan if the inverse of y is not x, because y was
        rounded.
    """
    inner = transform
    while isinstance(inner, T.IndependentTransform):
        inner = inner.base_transform
    back, log_det = _back(inner, x, y, moved)
    if log_det is None:
        log_det = inner.log_abs_det_jacobian(x + back, plus(y, moved))
    more = inner.codomain.event_dim - transform.codomain.event_dim
    return back, log_det.sum(tuple(range(log_det.ndim + more, log_det.ndim)))


def _back(transform: Any, x: Array, y: Array, moved: Array | None) -> tuple[Array, Array | None]:
    shift = 0.0 if moved is None else moved
    match transform:
        case T.AffineTransform():
            loc, scale = jnp.asarray(transform.loc) * 1.0, jnp.asarray(transform.scale) * 1.0
            loc0, scale0 = lax.stop_gradient((loc, scale))
            back = ((loc0 - loc) + (scale0 - scale) * x + shift) / scale
            log_det = jnp.broadcast_to(jnp.log(jnp.abs(scale)), back.shape)
            return back, resolved(log_det, loc, scale)
        case T.LowerCholeskyAffine() | Affine():
            loc = transform.loc
            scale = transform.scale if isinstance(transform, Affine) else transform.scale_tril
            loc0, scale0 = lax.stop_gradient((loc, scale))
            off = (loc0 - loc) + ((scale0 - scale) @ x[..., None])[..., 0] + shift
            return transform._inverse(loc + off), None
        case T.ExpTransform():
            return jnp.log1p(shift * jnp.exp(-x)) + jnp.zeros_like(x), None
        case T.SigmoidTransform():
            return jnp.log1p(shift / jax.nn.sigmoid(x)) - jnp.log1p(-shift / jax.nn.sigmoid(-x)) + jnp.zeros_like(
                x
            ), None
        case T.SoftplusTransform():
            return jnp.log1p(jnp.expm1(shift) / jax.nn.sigmoid(x)) + jnp.zeros_like(x), None
        case T.PowerTransform():
            power = jnp.asarray(transform.exponent) * 1.0
            power0, log_x = lax.stop_gradient(power), jnp.log(x)
            off = log_x * (power0 / power - 1) + jnp.log1p(shift * jnp.exp(-power0 * log_x)) / power
            return x * jnp.expm1(off), jnp.log(jnp.abs(power)) + (power - 1) * (log_x + off)
    inverse = transform.inv(plus(y, moved))
    known = lax.stop_gradient(inverse)
    close = jnp.abs(known - x) <= 1e-3 * (1 + jnp.abs(x))
    return jnp.where(close, inverse - known, jnp.nan), None
