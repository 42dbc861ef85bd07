"""Location-scale families: `z = mu + C eps`, `eps ~ phi`, for any invertible C."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from rgrad.distributions.others import as_distribution
from rgrad.distributions.wrappers import name_of


class Affine(Transform):  # type: ignore[misc]
    """The map `eps -> mu + C eps` of vectors, with inverse and log-determinant, as a NumPyro transform."""

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
    """The distribution of `z = mu + C eps`. The coordinates of eps are independent draws from `phi`.

        q(z) = phi(C^-1 (z - mu)) |det C^-1|

    It is a NumPyro distribution with `rsample`, and works with any estimator. C may be any invertible matrix. Its
    factorisation costs O(D^3), once for all samples; each density then costs O(D^2). If C is a Cholesky factor and phi
    is normal, NumPyro's `MultivariateNormal(mu, scale_tril=C)` does the same without the factorisation.

    Args:
        loc: mu, shape `(D,)`.
        scale: C, shape `(D, D)`.
        phi: the distribution of one coordinate of eps, a NumPyro distribution on the real line. The default is
            Normal(0, 1). Laplace and StudentT are other choices. Its parameters may be differentiated too.

    Raises:
        ValueError: the shapes do not match; `phi` is bounded, or not the distribution of one number; or C is singular
            to the precision of its floats. If C is traced, this cannot be checked. The densities are then not finite,
            and `rgrad.fit` refuses the step.

    Example:
        >>> C = jnp.array([[1.0, 0.0], [0.5, 2.0]])
        >>> q = rgrad.location_scale(jnp.array([3.0, 4.0]), C, dist.Laplace(0.0, 1.0))
        >>> print(f"{jax.jit(q.log_prob)(jnp.array([3.0, 4.0])):.3f}")  # -log |det C| - 2 log 2
        -2.079

    Source: Aziz 2017, Notes on generalised reparameterisation gradient (equations 4 and 5); Rezende, Mohamed and
    Wierstra 2014, https://arxiv.org/abs/1401.4082.
    """
    loc, scale = jnp.asarray(loc, float), jnp.asarray(scale, float)
    if loc.ndim != 1 or scale.shape != (loc.size, loc.size):
        raise ValueError(
            f"location_scale: loc has shape {loc.shape} and scale {scale.shape}; they must be (D,) and (D, D). Give "
            "loc[None] and scale[None, None] for numbers, and jnp.diag(scale) for a diagonal"
        )
    phi = dist.Normal(0.0, 1.0) if phi is None else as_distribution(phi, "location_scale")
    if not isinstance(phi, dist.Distribution):
        raise TypeError(
            f"location_scale: phi must be a distribution of NumPyro, or one that NumPyro has too, got {name_of(phi)}"
        )
    if phi.shape() != ():
        raise ValueError(
            f"location_scale: phi = {name_of(phi)} has shape {phi.shape()}; give the "
            "distribution of one coordinate, of shape ()"
        )
    if phi.support is not constraints.real:
        raise ValueError(
            f"location_scale: phi = {name_of(phi)} is not on the whole real line, so the support would move with "
            "mu and C; give e.g. Normal, Laplace, StudentT or Logistic"
        )
    check_invertible(scale, "location_scale: scale")
    return dist.TransformedDistribution(phi.expand([loc.size]).to_event(1), Affine(loc, scale))


def log_abs_det(scale: Array) -> Array:
    """`log |det C|`, shape `()`."""
    return jnp.linalg.slogdet(scale)[1]


def check_invertible(scale: Any, what: str) -> None:
    """Raises an error if C is singular to the precision of its floats. Does nothing if it is traced."""
    if isinstance(scale, jax.core.Tracer):
        return
    values = np.asarray(scale)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{what} has entries that are nan or infinite; give finite numbers")
    singular = np.linalg.svd(values, compute_uv=False)
    if singular[-1] <= singular[0] * len(values) * np.finfo(values.dtype).eps:
        raise ValueError(
            f"{what} is singular (its singular values go from {singular[0]:.3g} down to {singular[-1]:.3g}), so "
            "z = mu + C eps has no density; give an invertible matrix, e.g. a lower triangle with exp(...) on its "
            "diagonal"
        )


def check_cholesky(scale_tril: Any, what: str) -> None:
    """Raises an error if the diagonal of a Cholesky factor is not positive. Does nothing if it is traced."""
    if isinstance(scale_tril, jax.core.Tracer):
        return
    diagonal = np.diagonal(np.asarray(scale_tril), axis1=-2, axis2=-1)
    if not np.all(diagonal > 0):
        raise ValueError(
            f"{what}: the Cholesky factor has {diagonal.min():.3g} on its diagonal, which must be positive; "
            "parametrise it by exp or softplus, or give any invertible C to rgrad.location_scale"
        )
