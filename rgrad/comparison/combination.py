"""`combine`: several estimators of one gradient, on shared samples, as one that has less variance than the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from rgrad.autodiff import first_order
from rgrad.backend.compiling import right
from rgrad.distributions.dependent import DependentDraws
from rgrad.distributions.draws import check_draw
from rgrad.distributions.keyed import base_of, rewrapped
from rgrad.distributions.others import as_distribution
from rgrad.distributions.wrappers import JaxRandom, name_of
from rgrad.errors import NoRule
from rgrad.estimators.control_variates import one_at_a_time
from rgrad.estimators.opened import opened
from rgrad.estimators.table import estimator_of, row_of
from rgrad.protocols import Estimator, Objective

SHRINK = 4.0  # divided by the number of replicates: the ridge, relative to the mean variance of the differences


class Combined(NamedTuple):
    """The result of `combine`. Once it has weights, from `fitted`, it is an estimator `(f, q, key, n) -> terms`."""

    members: tuple[Estimator, ...]
    weights: Array | None = None
    """Shape `(members, coordinates)`, summing to 1 over the members. None before they are fitted."""
    gain: float | None = None
    """The total variance of the best member divided by that of the combination, at equal n, measured on calls that were
    not used for the weights. It is 1 if no combination was better, so that only the best member is left.
    """
    pays_after: float | None = None
    """The number of calls, including those for the weights, from which combining pays off. The mean over the remaining
    calls then has less variance than the mean of the best member over all calls. inf if no combination was better. (The
    members share the evaluations of f, but each computes its own gradient.)
    """

    def __call__(self, f: Objective, q: Any, key: Array, n: int) -> Array:
        q = as_distribution(q, "combine")
        check_draw(q, n, "combine")
        f, q = opened(f, q, self)
        if self.weights is None:
            raise ValueError("combine: the weights are not fitted; call combine(...).fitted(f, q, key, n) first")
        return _weighted(self.members, self.weights, f, q, key, n)

    def fitted(self, f: Objective, q: Any, key: Array, n: int, pilot: int = 1000) -> Combined:
        """The combination with fitted weights. This costs `2 x pilot` calls of n samples by every member, once.

        Half of the calls determine the weights. The other half test whether the weights help. In a coordinate where
        they do not, only the member with the least variance is used. Members without any weight are dropped. The
        combination stays unbiased for other parameters and another f, because any weights that sum to 1 are unbiased.
        But the weights may no longer be the best.

        Args:
            pilot: at least 10 for each member.
        """
        f, q = opened(f, as_distribution(q, "combine"), self)
        size = len(self.members)
        if isinstance(pilot, bool) or not isinstance(pilot, int) or pilot < 10 * size:
            raise ValueError(f"combine: pilot must be an int of at least {10 * size} (10 per estimator), got {pilot}")
        calls = jax.jit(jax.vmap(lambda key: _gradients(self.members, f, q, key, n)), compiler_options=right())
        fit, check = np.asarray(calls(jax.random.split(key, 2 * pilot)), np.float64).reshape(2, pilot, size, -1)
        if not (np.all(np.isfinite(fit)) and np.all(np.isfinite(check))):
            raise ValueError(
                "combine: the gradient of an estimator is nan or infinite in some of the pilot calls; remove that one"
            )
        weights = _least_variance(fit)
        alone = np.eye(size)[fit.var(0).argmin(0)].T  # only the best member of each coordinate
        after = lambda weights: (check * weights).sum(1).var(0)
        weights = np.where(after(weights) < after(alone), weights, alone)
        best = check[:, fit.var(0).sum(1).argmin()].var(0).sum()
        left = float(after(weights).sum())
        used = np.flatnonzero(np.any(weights != 0, 1))
        gain = float(best / left) if left > 0 else 1.0 if best == 0 else float("inf")
        # best / calls = left / (calls - 2 pilot)
        pays_after = 2 * pilot * best / (best - left) if best > left else float("inf")
        return Combined(
            tuple(self.members[i] for i in used), jnp.asarray(weights[used], float), gain, float(pays_after)
        )


def combine(estimators: Sequence[Estimator | str] | Mapping[str, Estimator | str]) -> Combined:
    """The combination of unbiased estimators with the least variance, chosen separately for each coordinate.

        terms = sum_m w_m terms_m,   w = C^-1 1 / (1' C^-1 1),   C the covariance of the members' gradients

    All members get the same key. Those that draw in the same way (`reparameterized`, `score_function`, ...) therefore
    share their samples, and f is evaluated once for all of them. The difference of two members is then a control
    variate that costs almost nothing. For x^2 at N(2, 1), the pathwise gradient has variance 4 per sample and the score
    function 87. The combination 73/63 of the first minus 10/63 of the second has variance 2.41. (Members with their own
    samples would have to share the budget of evaluations. No weighted mean of them is better than spending the whole
    budget on the best one.)

    The weights must not depend on the samples that they weight. They are therefore fitted beforehand, on separate calls
    with the same f, q and n:

        both = rgrad.combine([rgrad.reparameterized, rgrad.score_function]).fitted(f, q, key, n=10)
        rgrad.expect(f, q, key, 10, both)

    (`rgrad.compare` fits them automatically.) If the members are unbiased, so is any weighted combination, so the
    weights can be kept while the parameters change. The coordinates are those of the parameters of `q` (loc, scale,
    ...), whatever these are computed from. To first order only: a second derivative raises.

    Raises:
        ValueError: fewer than two members, or a member that is known to be biased (gumbel_softmax, straight_through).
            When called: the weights are not fitted, or they are for another number of coordinates.
        NotImplementedError: when called, if `q` may not stay normalised when only one parameter changes.

    Example:
        >>> q, f = dist.Normal(2.0, 1.0), lambda x: x**2
        >>> both = rgrad.combine([rgrad.reparameterized, rgrad.score_function]).fitted(f, q, key, n=10)
        >>> print(both.weights.round(1))
        [[ 1.2  1.2]
         [-0.2 -0.2]]

    Source: the best linear unbiased estimator (Aitken 1936); for gradients: Geffner and Domke 2018, Using large
    ensembles of control variates for variational inference, https://arxiv.org/abs/1810.12482.
    """
    several = estimators.values() if isinstance(estimators, Mapping) else estimators
    several = [several] if isinstance(several, str) or not isinstance(several, Iterable) else several
    members = tuple(estimator_of(e, "combine") for e in several)
    if len(members) < 2:
        raise ValueError(f"combine: needs at least two estimators, got {len(members)}")
    for member in members:
        if (row := row_of(member)) is not None and row.biased:
            raise ValueError(f"combine: {row.name} is biased, which would bias the combination; remove it")
    return Combined(members)


def _weighted(members: Sequence[Estimator], weights: Array, f: Objective, q: Any, key: Array, n: int) -> Array:
    """The mean of the members' terms. Derivatives in coordinate j of `q` are weighted by `w_mj`; f's are averaged."""
    live, build = coordinates(q)
    if weights.shape != (len(members), live.size):
        raise ValueError(
            f"combine: the weights have shape {weights.shape}, but {name_of(q)} has {live.size} coordinates; fit them at a q of "
            "the same shape"
        )
    weights, fixed = lax.stop_gradient(weights).astype(live.dtype), lax.stop_gradient(live)
    total = jnp.zeros(n)
    for member, w in zip(members, weights, strict=True):
        # The value is unchanged. Only the derivative is scaled.
        scaled = fixed + len(members) * w * (live - fixed)
        total = total + member(f, build(scaled), key, n) / len(members)
    return _once(total, live)


def _once(terms: Array, live: Array) -> Array:
    """`terms`, for which a second derivative in `live` raises: the weights hold for the first derivative only."""
    return first_order(terms, [jnp.broadcast_to(live, (*terms.shape, live.size))], [jnp.zeros((*terms.shape, live.size))], "combine")  # fmt: skip


def _gradients(members: Sequence[Estimator], f: Objective, q: Any, key: Array, n: int) -> Array:
    """One gradient estimate by each member in the coordinates of `q`: shape `(members, coordinates)`."""
    live, build = coordinates(q)
    live = lax.stop_gradient(live)
    return jnp.stack([jax.grad(lambda p, m=m: m(f, build(p), key, n).mean())(live) for m in members])


def _least_variance(gradients: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The weights for gradients of shape `(replicates, members, coordinates)`: shape `(members, coordinates)`.

    They come from a ridge regression of the best member on its differences from the others, which have mean 0. A
    singular covariance (e.g. two identical members) then does no harm.
    """
    away = gradients - gradients.mean(0)
    count, size, width = away.shape
    weights = np.zeros((size, width))
    for j in range(width):
        x = away[:, :, j]
        best = int((x**2).mean(0).argmin())
        difference = x[:, [best]] - x  # 0 for the best itself
        square = difference.T @ difference
        ridge = SHRINK / count * np.trace(square) / size
        if ridge > 0:
            weights[:, j] = np.linalg.solve(square + ridge * np.eye(size), difference.T @ x[:, best])
        weights[best, j] += 1 - weights[:, j].sum()
    return weights


def coordinates(q: Any) -> tuple[Array, Any]:
    """The parameters of `q` as one vector, and the function that builds `q` from such a vector.

    Raises:
        NotImplementedError: the parameters are not known to be independent of one another.
    """
    parameters, rebuild = _parts(base_of(q))
    live, unravel = ravel_pytree(parameters)
    return live, lambda vector: rewrapped(q, rebuild(unravel(vector)))


def _parts(q: Any) -> tuple[dict[str, Array], Any]:
    """The parameters by name, because the leaves of a LogNormal contain each twice, and what builds `q` from them."""
    if isinstance(q, DependentDraws | JaxRandom):
        parameters, inner = _parts(q.base)
        return parameters, lambda p: type(q)(inner(p))
    if isinstance(q, dist.Independent):
        parameters, inner = _parts(q.base_dist)
        return parameters, lambda p: dist.Independent(inner(p), q.reinterpreted_batch_ndims)
    if isinstance(q, dist.ExpandedDistribution):
        parameters, inner = _parts(q.base_dist)
        return parameters, lambda p: inner(p).expand(q.batch_shape)
    free = one_at_a_time(q)
    kind = type(free)
    names = [name for name in getattr(free, "arg_constraints", {}) if name in vars(free)]
    if isinstance(free, dist.MultivariateNormal):
        names = ["loc", "scale_tril"]
    if not names:
        raise NoRule(f"combine: the parameters of {name_of(q)} are not known by name", "use a single estimator")
    given = {name: getattr(free, name) for name in names}
    floats = {
        name: jnp.asarray(value)
        for name, value in given.items()
        if jnp.issubdtype(jnp.result_type(value), jnp.floating)
    }
    return floats, lambda p: kind(**{**given, **p})
