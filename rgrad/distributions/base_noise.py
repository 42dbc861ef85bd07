"""The score, computed from the noise behind a sample, because the sample itself is rounded.

A sample of Normal(1e4, 1e-3) keeps one digit of its noise, and sigmoid(20) is 1 in float32. From such samples,
`q.log_prob` computes the wrong score, and the gradient is silently biased. So both the sample `x = push(eps)` and its
noise eps are kept. If possible, the distribution of the noise has no parameters. If x is held fixed, the noise is a
function of the parameters,

    eps(theta) = T_theta^-1(x),    log q(x; theta) = log p(eps(theta)) - log |det T_theta'|

The value of eps(theta) is eps, and its derivatives need no inversion. For `x = loc + scale eps` they are, to every
order, those of `eps + ((loc0 - loc) + (scale0 - scale) eps) / scale`, with loc0 and scale0 the same numbers held
constant. `rgrad.distributions.transforms` has the formulas for other maps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from numpyro.distributions import constraints

from rgrad.autodiff import refuse_where
from rgrad.distributions.dependent import Antithetic, Quasi, Stratified
from rgrad.distributions.draws import as_it_is
from rgrad.distributions.keyed import WithKey
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.noise_families import FAMILIES, BaseNoise, Drawn
from rgrad.distributions.probabilities import Density, log_mixture
from rgrad.distributions.transforms import moved_back, parts_of, plus, stays
from rgrad.distributions.triangular import lower
from rgrad.distributions.wrappers import JaxRandom, elementary
from rgrad.protocols import Sample


def base_noise(q: Any) -> BaseNoise:
    """The noise behind the samples of `q`. If none is known, it is the sample itself, with its own density."""
    as_used = lower(q)
    how = _rule_for(as_used)(as_used)
    return how._replace(source=q) if how.source is as_used else how


def _rule_for(q: Any) -> Callable[[Any], BaseNoise]:
    if type(q) in RULES:
        return RULES[type(q)]
    kind = dist.TransformedDistribution
    if isinstance(q, kind) and type(q).log_prob is kind.log_prob and type(q).sample is kind.sample:
        return _transformed
    return _itself


def score_density(how: BaseNoise, eps: Sample) -> Array:
    """`log q` of each sample with noise eps, shape `(n,)`, up to a constant. The derivatives are those of `log q`.

    An entry that is not finite becomes nan. Only rounding can cause this, because the samples are drawn from q.
    """
    log_q = jax.vmap(lambda e: how.log_prob(e, None))(eps)
    if how.finite:
        return log_q
    return log_q * jnp.where(jnp.isfinite(log_q), 1.0, jnp.nan)  # so that the derivative is nan too


def nan_if_not_finite(terms: Array, log_q: Array, q: Any) -> Array:
    """`terms`. If the density of any sample is not finite, their derivative in every parameter of `q` is nan.

    The nan of `score_density` is not enough, because reverse mode may lose it: `where(inside, log_p, -inf)`, as in
    NumPyro's validation, passes nothing on to `log_p`. If `q` is not a pytree, its parameters cannot be found here.
    """
    bad = ~jnp.isfinite(lax.stop_gradient(log_q)).all()
    for leaf in jax.tree.leaves(q):
        if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
            terms = refuse_where(terms, jnp.broadcast_to(bad, leaf.shape), leaf, "")
    return terms


def _itself(q: Any) -> BaseNoise:
    def density(x: Sample, moved: Array | None) -> Array:
        x = x if moved is None else plus(x, moved)
        return log_prob(q, x) * _not_at_the_edge(q, x)

    return BaseNoise(q, lambda x: x, density)


def _not_at_the_edge(q: Any, x: Sample) -> Any:
    """1, or nan if a sample of (0, 1) or of a simplex was rounded to the edge and the density is steep there."""
    support: Any = None if getattr(q, "has_enumerate_support", False) else getattr(q, "support", None)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    edges = {type(constraints.unit_interval), type(constraints.simplex)}
    if type(support) not in edges or getattr(q, "batch_shape", ()) != () or not jnp.issubdtype(x.dtype, jnp.floating):
        return 1.0
    tiny, eps = jnp.finfo(x.dtype).tiny, jnp.finfo(x.dtype).eps
    x = lax.stop_gradient(x)
    if type(support) is type(constraints.unit_interval):
        inside = jnp.where(x <= tiny, 2 * tiny, jnp.where(x >= 1 - eps, 1 - 2 * eps, x))
    else:  # exact zeros occur in one-hot vectors
        inside = jnp.where((x > 0) & (x <= tiny), 2 * tiny, x)
    flat = jnp.abs(lax.stop_gradient(q.log_prob(x) - q.log_prob(inside))) <= 0.3
    return jnp.where((x == inside).all() | flat, 1.0, jnp.nan)


def _independent(q: Any) -> BaseNoise:
    inner = base_noise(q.base_dist)
    if inner.source is q.base_dist and type(q.base_dist) not in RULES:
        return _itself(q)
    last = tuple(range(-q.reinterpreted_batch_ndims, 0))
    return inner._replace(log_prob=lambda eps, moved: inner.log_prob(eps, moved).sum(last))


def _expanded(q: Any) -> BaseNoise:
    inner = base_noise(q.base_dist)
    if inner.source is q.base_dist and type(q.base_dist) not in RULES:
        return _itself(q)
    density = lambda eps, moved: jnp.broadcast_to(inner.log_prob(eps, moved), q.batch_shape)
    return inner._replace(source=inner.source.expand(q.batch_shape), log_prob=density)


def _transformed(q: Any) -> BaseNoise:
    base, transforms = base_noise(q.base_dist), parts_of(q.transforms)

    def push(eps: Array) -> Array:
        x = base.push(eps)
        for transform in transforms:
            x = transform(x)
        return as_it_is(x)

    def density(eps: Array, moved: Array | None) -> Array:
        points = [lax.stop_gradient(base.push(eps))]
        for transform in transforms:
            points.append(lax.stop_gradient(transform(points[-1])))
        event_dim, log_det = len(q.event_shape), jnp.zeros(q.batch_shape)
        for transform, x, y in reversed(list(zip(transforms, points, points[1:], strict=False))):
            outer = event_dim - transform.codomain.event_dim
            if not (moved is None and stays(transform)):  # skip what no parameter moves, because it may not be finite
                moved, slope = moved_back(transform, x, y, moved)
                log_det = log_det + slope.sum(tuple(range(slope.ndim - outer, slope.ndim)))
            event_dim = transform.domain.event_dim + outer
        log_p = base.log_prob(eps, moved)
        return log_p.sum(tuple(range(log_p.ndim - (event_dim - len(q.base_dist.event_shape)), log_p.ndim))) - log_det

    # `rgrad.noise` has rules only for transforms that keep the shape. The others are drawn by NumPyro.
    return BaseNoise(base.source, push, density, base.own or q.base_dist.shape() != q.shape())


def _dependent(q: Any) -> BaseNoise:
    inner = base_noise(q.base)
    if inner.own or inner.source is q.base or isinstance(elementary(inner.source), Drawn):
        return _itself(q)
    source = inner.source.to_event(len(inner.source.batch_shape))
    return inner._replace(source=type(q)(source))


def _with_key(q: WithKey) -> BaseNoise:
    inner = base_noise(q.base)
    source = WithKey(JaxRandom(inner.source) if inner.own else inner.source)
    return BaseNoise(
        source, lambda pair: (inner.push(pair[0]), pair[1]), lambda pair, moved: inner.log_prob(pair[0], moved)
    )


def _mixture(q: Any) -> BaseNoise:
    """The sample itself as the noise, with a density that has the correct derivative in a weight of exactly 0."""
    return _itself(q)._replace(
        log_prob=lambda x, moved: log_prob(Density(partial(log_mixture, q)), plus(x, moved)) * _not_at_the_edge(q, x)
    )


RULES: dict[type, Callable[[Any], BaseNoise]] = {
    **FAMILIES,
    dist.Independent: _independent,
    dist.ExpandedDistribution: _expanded,
    **dict.fromkeys((Antithetic, Stratified, Quasi), _dependent),
    **dict.fromkeys((dist.MixtureSameFamily, dist.MixtureGeneral), _mixture),
    JaxRandom: lambda q: base_noise(q.base)._replace(own=True),
    WithKey: _with_key,
}
"""The rules by exact type, because a subclass may have another density."""
