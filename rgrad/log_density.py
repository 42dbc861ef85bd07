"""The log density of a sample, with the derivative that NumPyro's own does not have where a logit is exactly 0."""

from typing import Any

import jax
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.protocols import Sample


def log_prob(q: Any, x: Sample) -> Array:
    """`q.log_prob(x)` of one sample, a constant; its derivative is right at logits of exactly 0 too, where many begin.

    NumPyro has `max(l, 0) + log1p(exp(-|l|))` for `softplus(l)` in Bernoulli and Binomial. To JAX the slopes of its parts
    at 0 are 1/2 and -1/2, which make 0 where 1/2 is right: every score would be off by 1/2 (for a Binomial by half the
    count), and the score function would give 0.5 for 0.25 at `d/dl E[x]`.

    Returns:
        Shape `()`.
    """
    inner = q
    while isinstance(inner, dist.Independent | dist.ExpandedDistribution):
        inner = inner.base_dist
    if not isinstance(inner, dist.BernoulliLogits | dist.BinomialLogits):
        return q.log_prob(x)
    live = x * inner.logits - getattr(inner, "total_count", 1) * jax.nn.softplus(inner.logits)
    return (live + lax.stop_gradient(inner.log_prob(x) - live)).sum()
