"""Samples of `q`, and the values of `f` at them.

By default, location-scale families are drawn from `rgrad.noise`, and all others by `q.sample` and `q.rsample`.
`jax_random(q)` always uses the latter.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.distributions.adapted import Adapted
from rgrad.distributions.admission import check_density, check_differentiable, nan_outside_support
from rgrad.distributions.implicit import has_rsample, no_path, rsample, sample
from rgrad.distributions.keyed import base_of, sample_of
from rgrad.distributions.others import MEMBERS, as_distribution
from rgrad.distributions.wrappers import JaxRandom, elementary, inside, name_of
from rgrad.errors import NoDerivative
from rgrad.protocols import Objective, Sample


def draw(q: Any, key: Array, n: int, caller: str) -> Sample:
    """`n` samples of `q`, shape `(n, *event_shape)`, without derivatives."""
    check_draw(q, n, caller)
    x = nan_outside_support(q, sample(q, key, (n,)))
    return _as_it_is_if_transformed(q, jax.tree.map(lax.stop_gradient, x))


def draw_pathwise(q: Any, key: Array, n: int, caller: str) -> Sample:
    """`n` samples of `q`, shape `(n, *event_shape)`, differentiable in the parameters of `q`."""
    check_draw(q, n, caller)
    if not has_rsample(q):
        reason = q.reason if isinstance(q, Adapted) else no_path(q)
        reason = f": {reason}" if reason else ""
        raise NoDerivative(f"{caller} needs q.rsample, and {name_of(q)} has none{reason}")
    x = rsample(q, key, (n,))
    check_differentiable(sample_of(q, x), name_of(q), caller)
    return _as_it_is_if_transformed(q, nan_outside_support(q, x))


def as_it_is(x: Sample) -> Sample:
    """x behind an optimization barrier. XLA would replace `log(exp(y))` by y, even if exp(y) rounds to 0."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else lax.optimization_barrier(leaf), x)


def _as_it_is_if_transformed(q: Any, x: Sample) -> Sample:
    one = elementary(base_of(q))
    return as_it_is(x) if isinstance(one, dist.TransformedDistribution) else x


def evaluate(f: Objective, x: Sample, n: int, caller: str) -> Array:
    """The value of `f` at each of the `n` samples: shape `(n,)`. Bools and integers are converted to floats."""
    values: Any = jax.vmap(f)(x)
    if not hasattr(values, "shape"):
        raise TypeError(
            f"{caller}: f must return a scalar for one sample, got {type(values).__name__}; return one number"
        )
    if values.shape != (n,):
        raise ValueError(
            f"{caller}: f must return a scalar for one sample, got shape {values.shape[1:]}; return its sum or its mean"
        )
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise TypeError(f"{caller}: f must return a real number, got {values.dtype}; return its real part")
    return values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(float)


def check_draw(q: Any, n: int, caller: str) -> None:
    """Raises an error if `n` samples of `q` cannot be drawn. Estimators need no other check before they draw."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"{caller}: n = {n!r} is not an int; it is a shape, so it must be a Python int, not traced")
    if n < 1:
        raise ValueError(f"{caller}: n = {n} samples; ask for at least 1")
    if isinstance(q, type):
        raise TypeError(f"{caller}: {q.__name__} is a class; give it its parameters, as in Normal(0.0, 1.0)")
    missing = [name for name in MEMBERS if not hasattr(q, name)]
    if missing:
        expect = "; rgrad.expect(f, q, key, n, estimator) accepts it" if missing == ["has_rsample"] else ""
        raise TypeError(
            f"{caller}: q must be a distribution, got {name_of(q)}, which has no {', '.join(missing)}{expect}"
        )
    check_density(q, name_of(q), caller)
    batch = getattr(q, "batch_shape", ())
    if batch != ():
        raise ValueError(
            f"{caller}: {name_of(q)} has batch_shape {batch}, but q must describe one sample; make the batch one event "
            f"with .to_event({len(batch)}), or vmap over the parameters and build q inside the mapped function"
        )


def jax_random(q: Any) -> Any:
    """`q`, drawn by `jax.random` through its own `sample` and `rsample`, and not from `rgrad.noise`.

    The distribution is the same, and a key gives the same samples as in NumPyro. (Four kinds of draws always come from
    `jax.random`: those of 64-bit floats, with keys other than threefry, on platforms other than CPU and NVIDIA GPUs,
    and of distributions that are not location-scale families.)

    Returns:
        A distribution of one sample, like `q`.

    Raises:
        TypeError, ValueError: `q` is not a distribution, or it has a batch shape.

    Example:
        >>> q = dist.Normal(0.0, 1.0)
        >>> mean = rgrad.expect(lambda x: x, rgrad.jax_random(q), key, 10)
        >>> print(jnp.allclose(mean, q.sample(key, (10,)).mean()))
        True
    """
    q = as_distribution(q, "jax_random")
    check_draw(q, 1, "jax_random")
    return inside(q, JaxRandom)
