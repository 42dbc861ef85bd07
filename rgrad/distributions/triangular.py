"""Parameters that NumPyro requires to be lower triangular, e.g. `scale_tril`, made exactly lower triangular."""

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from numpyro.distributions import constraints
from numpyro.distributions.transforms import LowerCholeskyAffine

from rgrad.distributions.admission import changed, rebuilt

# A scale_tril that NumPyro has computed from one of these is lower triangular already.
COMPUTED_FROM = ("covariance_matrix", "precision_matrix", "scale_matrix", "rate_matrix")


def lower(q: Any) -> Any:
    """`q`, with the entries above the diagonal removed from parameters that must be lower triangular.

    NumPyro draws samples with the whole matrix, but its `log_prob` uses only the lower triangle. The derivative with
    respect to an entry above the diagonal would therefore differ between estimators. Here it is 0 in all of them. If
    such an entry is not 0, the matrix becomes nan.
    """
    return rebuilt(q, _with_lower_triangles)


def _lower(matrix: Any) -> Array:
    above = lax.stop_gradient(jnp.triu(matrix, 1))
    return jnp.tril(matrix) * jnp.where(jnp.any(above != 0), jnp.nan, 1)


def _with_lower_triangles(q: Any) -> Any:
    if not isinstance(q, dist.Distribution):
        return q
    own, new = vars(q), dict[str, Any]()
    if all(own.get(name) is None for name in COMPUTED_FROM):
        for name, constraint in q.arg_constraints.items():
            if constraint is constraints.lower_cholesky and own.get(name) is not None:
                new[name] = _lower(own[name])
    if isinstance(q, dist.TransformedDistribution) and any(isinstance(t, LowerCholeskyAffine) for t in q.transforms):
        new["transforms"] = [
            LowerCholeskyAffine(t.loc, _lower(t.scale_tril)) if isinstance(t, LowerCholeskyAffine) else t
            for t in q.transforms
        ]
    return changed(q, **new) if new else q
