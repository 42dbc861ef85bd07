"""The log density of a sample, with a derivative that is correct even at kinks in NumPyro's formulas."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.distributions.adapted import density_of_one
from rgrad.distributions.admission import normalised, parts
from rgrad.distributions.kinks import beside_kinks
from rgrad.distributions.triangular import lower
from rgrad.distributions.truncated import sharpened
from rgrad.protocols import Sample


class Wrapper:
    """A distribution built from another one, `base`. Its log density is that of `base` by default.

    `base_dist` is the name that NumPyro's own wrappers use, so the same code can unwrap both. (The class is in this
    module because `log_prob` and `Wrapper.log_prob` call each other.)
    """

    base: Any
    prefix: ClassVar[str] = ""
    """The name in messages, e.g. `antithetic(Normal)`. If it is empty, they use the name of `base`."""

    @property
    def base_dist(self) -> Any:
        return self.base

    def log_prob(self, value: Sample) -> Array:
        return log_prob(self.base, value)


def log_prob(q: Any, x: Sample) -> Array:
    """`q.log_prob(x)`. Its derivative is also correct at a logit of exactly 0, where many fits start.

        rgrad.surrogate(values, rgrad.log_prob(q, x))

    For Bernoulli and Binomial, NumPyro writes `softplus(l)` as `max(l, 0) + log1p(exp(-|l|))`. At 0, JAX takes 1/2 and
    -1/2 as the slopes of the two parts. They add up to 0, not to 1/2, so every score is off by 1/2 (for a Binomial, by
    half the count). The score function then gives 0.5, not 0.25, for `d/dl E[x]`. The same happens in mixtures,
    zero-inflated and masked distributions of them, in a truncated Laplace with its kink at the bound, and in a
    `log_prob` of your own that calls theirs. In this function, all parts of a formula use the same side of such a
    point; see `rgrad.distributions.kinks`. Every estimator uses it. Use it for densities that you differentiate
    yourself.

    Args:
        q: a `Distribution`.
        x: the argument of `q.log_prob`.

    Returns:
        What `q.log_prob` returns: shape `()` for one sample.

    Example:
        >>> score = jax.grad(lambda logit: rgrad.log_prob(dist.Bernoulli(logits=logit), 1.0))
        >>> print(score(0.0))  # 1 - p
        0.5
    """
    if isinstance(q, Wrapper):
        return q.log_prob(x)
    q = sharpened(normalised(lower(q), for_log=True))
    inner = q
    while type(inner) in (dist.Independent, dist.ExpandedDistribution):
        inner = inner.base_dist
    if type(inner) not in (dist.BernoulliLogits, dist.BinomialLogits):
        return beside_kinks(partial(density_of_one, q), x)
    # The same result with fewer operations, for the two most frequent distributions.
    live = x * inner.logits - getattr(inner, "total_count", 1) * _softplus(jnp.asarray(inner.logits))
    if type(inner) is dist.BernoulliLogits and len({part._validate_args for part in parts(q)}) == 1:
        if inner._validate_args:  # as NumPyro does it, with its warning
            live = jnp.where(inner._validate_sample(x), live, -jnp.inf)
        live = jnp.broadcast_to(live, lax.broadcast_shapes(jnp.shape(x), q.shape()))
        return live.sum(tuple(range(live.ndim - len(q.event_shape), live.ndim)))
    live = live.sum(tuple(range(live.ndim - len(q.event_shape), live.ndim)))
    return live + lax.stop_gradient(q.log_prob(x) - live)


def _softplus(x: Array) -> Array:
    """`log(1 + e^x)`. Both branches use the same side at 0, so its derivatives of every order are correct there too."""
    return jnp.where(x > 0, x, 0.0) + jnp.log1p(jnp.exp(jnp.where(x > 0, -x, x)))
