"""The samples of a mixture as functions of its parameters, by the distributional transform.

The component of a sample is discrete, and has no derivative. The sample itself has one: given the coordinates before it,
coordinate d of x has the distribution function

    F_d(x_d) = sum_k w_kd F_kd(x_d),   w_kd in proportion to w_k prod_(j<d) p_kj(x_j)

so `u_d = F_d(x_d)` is uniform, whatever the parameters are. x moves so that u stays: `dx_d = -dF_d / p_d(x_d)`. Here dF_d
contains the moves of the coordinates before.

Source: Figurnov, Mohamed and Mnih 2018, Implicit reparameterization gradients, https://arxiv.org/abs/1805.08498; Graves
2016, Stochastic backpropagation through mixture density distributions, https://arxiv.org/abs/1607.05690.
"""

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.linalg import solve_triangular
from jax.scipy.stats import norm
from numpyro.distributions import constraints

from rgrad.autodiff import first_order
from rgrad.backend.varying import same_varying
from rgrad.distributions.cdfs import cdf, components, has_cdf, is_discrete
from rgrad.distributions.detach import detach
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.probabilities import weights_of
from rgrad.distributions.triangular import lower
from rgrad.distributions.wrappers import elementary, name_of


def why_not(q: Any) -> str:
    """Why the samples of a mixture cannot be differentiated. Empty if they can."""
    parts = components(q)
    for part in parts:
        if is_discrete(part):
            return f"its components are discrete ({name_of(part)})"
        if not (has_cdf(part) or _is_normal_vector(part)):
            return f"its components ({name_of(part)}) have no distribution function (cdf)"
    supports = {_kind(part.support) for part in parts}
    if getattr(q, "_support", None) is not None or None in supports or len(supports) > 1:
        return "the supports of its components may differ, and no sample moves through a gap between them"
    return ""


def _is_normal_vector(part: Any) -> bool:
    return type(elementary(part)) is dist.MultivariateNormal and len(part.event_shape) == 1


def _kind(support: Any) -> type | None:
    """The type of a support without parameters, otherwise None."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return type(support) if isinstance(support, constraints.ParameterFreeConstraint) else None


class Conditionals(NamedTuple):
    """The coordinates of components at x, each given those before it. Shape `(..., K, D)`."""

    cdf: Array
    log_prob: Array
    slope: Array
    """The derivative of `log_prob` in the coordinate itself, a constant."""


def moved(q: Any, x: Array) -> Array:
    """The samples x of a mixture, which move with the parameters, to first order."""
    x, w = lax.stop_gradient(x), weights_of(q.mixing_distribution)
    shape, size, parts = q.event_shape, prod(q.event_shape), components(q)
    batch, number = x.shape[: x.ndim - len(shape)], w.shape[-1] // len(parts)
    # The density of another coordinate moves a component's conditional mean, as the row of a matrix, if it is correlated.
    correlated = any(map(_is_normal_vector, parts))

    def in_line(of_part: Array) -> Array:
        return jnp.broadcast_to(of_part, (*batch, number, *shape)).reshape(*batch, number, size)

    made = [_conditionals(part, jnp.expand_dims(x, -len(shape) - 1)) for part in parts]
    every = jax.tree.map(lambda *each: jnp.concatenate([in_line(c) for c in each], -2), *made)
    rows = jnp.concatenate([_rows(part, number, size) for part in parts], -3) if correlated else None

    def step(carry: tuple[Array, Array], at: Any) -> tuple[tuple[Array, Array], Array]:
        """One coordinate. `log_r`: the log density of those before it, in each component. `moves`: how they move."""
        (log_r, moves), (x, one, row, place) = carry, at
        largest = lax.stop_gradient(jnp.where(w > 0, log_r, -jnp.inf).max(-1, keepdims=True))
        share = w * jnp.exp(jnp.minimum(log_r - largest, 80.0))  # no logarithm of a weight, which may be 0
        share = share / share.sum(-1, keepdims=True)
        density = jnp.exp(lax.stop_gradient(one.log_prob))
        along = 0.0 if row is None else (row * moves[..., None, :]).sum(-1)
        u = (share * (one.cdf + density * along)).sum(-1)
        p = (lax.stop_gradient(share) * density).sum(-1)
        live = first_order(x, [u], [-1 / p], f"reparameterized({name_of(q)})")
        log_r = log_r + one.log_prob + one.slope * (along + (live - x)[..., None])
        moves = moves if row is None else moves + place * (live - x)[..., None]
        return (log_r, moves), live

    ahead = lambda c: jnp.moveaxis(c, -1, 0)
    of_rows = (None, None) if rows is None else (jnp.moveaxis(rows, -2, 0), jnp.eye(size, dtype=x.dtype))
    at = (ahead(x.reshape(*batch, size)), jax.tree.map(ahead, every), *of_rows)
    # The carry of a loop must keep its type, also in jax.shard_map.
    zeros = lambda s: same_varying(jnp.zeros((*batch, s), x.dtype), w, *jax.tree.leaves(at))[0]
    before = (zeros(w.shape[-1]), zeros(size if correlated else 0))
    if size == 1:
        return step(before, jax.tree.map(lambda c: c[0], at))[1].reshape(x.shape)
    return jnp.moveaxis(lax.scan(step, before, at)[1], 0, -1).reshape(x.shape)


def _conditionals(part: Any, x: Array) -> Conditionals:
    """x has an axis of size 1 before the event, for the components."""
    one = elementary(part)
    if not _is_normal_vector(part):
        slope = jax.jvp(lambda x: log_prob(detach(one), x), (x,), (jnp.ones_like(x),))[1]
        return Conditionals(cdf(one, x), log_prob(one, x), lax.stop_gradient(slope))
    one = lower(one)
    scale = jnp.diagonal(one.scale_tril, axis1=-2, axis2=-1)
    z = (_inverse(one.scale_tril) @ (x - one.loc)[..., None])[..., 0]
    return Conditionals(norm.cdf(z), norm.logpdf(z) - jnp.log(scale), lax.stop_gradient(-z / scale))


def _inverse(tril: Array) -> Array:
    return solve_triangular(tril, jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape), lower=True)


def _rows(part: Any, number: int, size: int) -> Array:
    """Below the diagonal, what the conditional mean of a coordinate moves by if one before it moves, with a minus."""
    if not _is_normal_vector(part):
        return jnp.zeros((number, size, size))
    tril = lax.stop_gradient(elementary(part).scale_tril)
    diagonal = jnp.diagonal(tril, axis1=-2, axis2=-1)
    rows = jnp.tril(_inverse(jnp.tril(tril)) * diagonal[..., None], -1)
    return jnp.broadcast_to(rows, (*rows.shape[:-3], number, size, size))
