"""The log density of a sample, with the right derivative also at the special points of NumPyro's formulas."""

from typing import Any, ClassVar

import jax
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.distributions.admission import normalised
from rgrad.distributions.kinks import beside_kinks
from rgrad.distributions.truncated import sharpened
from rgrad.protocols import Sample


class Wrapper:
    """A distribution made of another one, `base`. Its log density is that of `base`, unless it says otherwise.

    `base_dist` is the name that NumPyro's own wrappers have for it: so one walk goes through both. (In this module, because
    `log_prob` and `Wrapper.log_prob` call each other.)
    """

    base: Any
    prefix: ClassVar[str] = ""
    """How messages name it, as in `antithetic(Normal)`; by default by the name of its base."""

    @property
    def base_dist(self) -> Any:
        return self.base

    def log_prob(self, value: Sample) -> Array:
        return log_prob(self.base, value)


def log_prob(q: Any, x: Sample) -> Array:
    """`q.log_prob(x)`, whose derivative in the parameters is right at a logit of exactly 0 too, where many begin.

        rgrad.surrogate(values, rgrad.log_prob(q, x))

    NumPyro writes `softplus(l)` as `max(l, 0) + log1p(exp(-|l|))` for Bernoulli and Binomial. To JAX the slopes of its parts
    at 0 are 1/2 and -1/2, which make 0 and not 1/2: every score is off by 1/2 (for a Binomial by half the count), and the score
    function gives 0.5 and not 0.25 for `d/dl E[x]`. So it is in all that is made of them (mixtures, zero-inflated, masked
    distributions), for a truncated Laplace whose kink is at the bound, and in a `log_prob` of your own that calls theirs.
    Here all parts of a formula are continued to the same side of such a point, whatever it is part of: see `rgrad.distributions.kinks`.
    Every estimator uses this; use it for densities that you differentiate yourself.

    Args:
        q: a `Distribution`.
        x: what `q.log_prob` takes.

    Returns:
        What `q.log_prob` returns: for one sample shape `()`.
    """
    if isinstance(q, Wrapper):
        return q.log_prob(x)
    q = sharpened(normalised(q))
    inner = q
    while type(inner) in (dist.Independent, dist.ExpandedDistribution):
        inner = inner.base_dist
    if type(inner) not in (dist.BernoulliLogits, dist.BinomialLogits):
        return beside_kinks(q.log_prob, x)
    # The same for the most frequent two, in fewer operations.
    value = q.log_prob(x)
    live = x * inner.logits - getattr(inner, "total_count", 1) * jax.nn.softplus(inner.logits)
    live = live.sum(tuple(range(live.ndim - len(q.event_shape), live.ndim)))
    return live + lax.stop_gradient(value - live)
