"""What f sees of a distribution of another library: samples of the dtype that the library draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rgrad.distributions.log_density import Wrapper
from rgrad.distributions.wrappers import SeenAs
from rgrad.estimators.gumbel_rao import gumbel_rao
from rgrad.estimators.rebar import rebar
from rgrad.estimators.reinmax import reinmax
from rgrad.estimators.relaxed import gumbel_softmax, straight_through
from rgrad.estimators.table import row_of
from rgrad.protocols import Estimator, Objective, Sample

RELAXED = (gumbel_softmax, straight_through, reinmax, gumbel_rao, rebar)


def opened(f: Objective, q: Any, estimator: Estimator) -> tuple[Objective, Any]:
    """`f` and `q` as an estimator needs them: f converts samples to the dtype of the library, and q is NumPyro's.

    Floats are not converted to integers if the estimator may be a relaxation, whose samples lie between the integers.
    """
    bare, dtype = _bare(q)
    if dtype is None:
        return f, q
    row = row_of(estimator)
    relaxed = row is None or row.estimator in RELAXED
    return lambda x, *key: f(seen_as(x, dtype, relaxed), *key), bare


def seen(x: Sample, q: Any, estimator: Estimator) -> Sample:
    """One sample `x` of an opened `q`, as f sees it."""
    return opened(lambda x: x, q, estimator)[0](x)


def seen_as(x: Sample, dtype: Any, relaxed: bool) -> Sample:
    def one(leaf: Array) -> Array:
        rounds = jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.floating)
        return leaf if rounds and relaxed else leaf.astype(dtype)

    return jax.tree.map(one, x)


def _bare(q: Any) -> tuple[Any, Any]:
    """`q` without `SeenAs`, and its dtype. None if there is none."""
    if isinstance(q, SeenAs):
        return _bare(q.base)[0], q.dtype
    if isinstance(q, Wrapper) and hasattr(q, "_replace"):
        base, dtype = _bare(q.base)
        return (q, None) if dtype is None else (q._replace(base=base), dtype)
    return q, None
