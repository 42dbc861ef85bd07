"""Location-scale families: `z = mu + C eps`, `eps ~ phi`, for any invertible C."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from rgrad.distributions.wrappers import name_of


class Affine(Transform):  # type: ignore[misc]
    """`eps -> mu + C eps` for vectors, with its inverse and its log-determinant, as one of NumPyro's transforms."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, loc: Array, scale: Array) -> None:
        self.loc, self.scale = loc, scale

    def __call__(self, x: Array) -> Array:
        return self.loc + (self.scale @ x[..., None])[..., 0]

    def _inverse(self, y: Array) -> Array:
        return jnp.linalg.solve(self.scale, (y - self.loc)[..., None])[..., 0]

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        return jnp.broadcast_to(log_abs_det(self.scale), jnp.shape(x)[:-1])

    def tree_flatten(self) -> Any:
        return (self.loc, self.scale), (("loc", "scale"), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, Affine) and self.loc is other.loc and self.scale is other.scale


def location_scale(loc: ArrayLike, scale: ArrayLike, phi: Any = None) -> dist.TransformedDistribution:
    """The law of `z = mu + C eps`, whose coordinates of eps are independent draws of `phi`:

        q(z) = phi(C^-1 (z - mu)) |det C^-1|

        q = rgrad.location_scale(mu, C, dist.StudentT(5.0))

    A NumPyro distribution, with `rsample`, for any estimator. C is any invertible matrix; a density costs O(D^3) for its
    factorisation, once for all samples, and O(D^2) for each. Where C is a Cholesky factor NumPyro's
    `MultivariateNormal(mu, scale_tril=C)` does the same for a normal phi without that.

    Args:
        loc: mu, shape `(D,)`.
        scale: C, shape `(D, D)`.
        phi: the law of one coordinate of eps: a NumPyro distribution on the real line; Normal(0, 1) where None. Laplace and
            StudentT are others; it may have parameters that are differentiated.

    Raises:
        ValueError: shapes that do not go together, a `phi` that is not of one number or is bounded, or a C that is
            singular to the precision of its floats. (Where C is traced that cannot be seen: densities are then not finite,
            and `rgrad.fit` refuses the step.)

    Source: the notes' equations (4) and (5); Rezende, Mohamed and Wierstra 2014.
    """
    loc, scale = jnp.asarray(loc, float), jnp.asarray(scale, float)
    if loc.ndim != 1 or scale.shape != (loc.size, loc.size):
        raise ValueError(
            f"location_scale: loc has shape {loc.shape} and scale {scale.shape}; they must be (D,) and (D, D). For "
            "numbers give loc[None] and scale[None, None], for a diagonal jnp.diag(scale)"
        )
    phi = dist.Normal(0.0, 1.0) if phi is None else phi
    if phi.shape() != ():
        raise ValueError(
            f"location_scale: phi = {name_of(phi)} has shape {phi.shape()}; give the law of one coordinate, of shape ()"
        )
    if phi.support is not constraints.real:
        raise ValueError(
            f"location_scale: phi = {name_of(phi)} is not on the whole real line, so that the support would move with "
            "mu and C; give Normal, Laplace, StudentT, Logistic, ..."
        )
    check_invertible(scale, "location_scale: scale")
    return dist.TransformedDistribution(phi.expand([loc.size]).to_event(1), Affine(loc, scale))


def log_abs_det(scale: Array) -> Array:
    """`log |det C|`, shape `()`."""
    return jnp.linalg.slogdet(scale)[1]


def check_invertible(scale: Any, what: str) -> None:
    """Raises where C is singular to the precision of its floats. Says nothing where it is traced."""
    if isinstance(scale, jax.core.Tracer):
        return
    values = np.asarray(scale)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{what} has entries that are nan or infinite; give finite numbers")
    singular = np.linalg.svd(values, compute_uv=False)
    if singular[-1] <= singular[0] * len(values) * np.finfo(values.dtype).eps:
        raise ValueError(
            f"{what} is singular (its singular values go from {singular[0]:.3g} down to {singular[-1]:.3g}), and z = mu + "
            "C eps has no density then; give an invertible matrix, as a lower triangle with exp(...) on its diagonal"
        )


def check_cholesky(scale_tril: Any, what: str) -> None:
    """Raises where the diagonal of a Cholesky factor is not positive. Says nothing where it is traced."""
    if isinstance(scale_tril, jax.core.Tracer):
        return
    diagonal = np.diagonal(np.asarray(scale_tril), axis1=-2, axis2=-1)
    if not np.all(diagonal > 0):
        raise ValueError(
            f"{what}: the Cholesky factor has {diagonal.min():.3g} on its diagonal, which must be positive; "
            "parametrise it by exp or softplus, or give any invertible C to rgrad.location_scale"
        )
