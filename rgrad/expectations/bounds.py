"""Multi-sample bounds on a log evidence (importance-weighted ELBOs), and gradient estimators specific to them.

A bound from K samples is an expectation over *K samples at once*, so any estimator can differentiate it. Three
estimators also use the weight of each sample, which a `Bound` provides: `vimco`, `sticking_the_landing` and
`doubly_reparameterized`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn import logsumexp

from rgrad.autodiff import attach, first_order
from rgrad.distributions.base_noise import base_noise, score_density
from rgrad.distributions.copies import Copies
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.detach import detach
from rgrad.distributions.draws import check_draw, draw_pathwise, evaluate
from rgrad.distributions.others import as_distribution
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import log_prob_between
from rgrad.distributions.support import forbid_moving_support
from rgrad.errors import Unsuitable, check_takes, nearest
from rgrad.estimators.opened import opened
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import ESTIMATORS, row_of
from rgrad.expectations.expectation import expect
from rgrad.protocols import Distribution, Estimator, Objective, Sample


def iwae(
    log_p: Objective, q: Distribution, key: Array, k: int, n: int = 1, gradient: Estimator | str = reparameterized
) -> Array:
    """The importance-weighted bound from K samples, a lower bound on `log integral exp(log_p(x)) dx`:

        L_K = E[log 1/K sum_k w_k],   log w_k = log p(x_k) - log q(x_k),   x_k ~ q

    L_1 is the ELBO. As K grows, L_K increases to the log evidence. Maximise it: the loss is its negative.

    The choices for `gradient`, with `u_k = w_k / sum_j w_j` (for the parameters of `log_p`, all of them are unbiased):

    - `reparameterized` (IWAE): unbiased, every order. For the parameters of q its signal-to-noise ratio falls as
      `1/sqrt(K)`: as K grows, the bound gets tighter, but the gradient for q gets noisier.
    - `doubly_reparameterized` (DReG): unbiased, first order. Its signal-to-noise ratio rises as `sqrt(K)` near the
      optimum. Far from it DReG may be noisier than IWAE: for q = N(-3, 1), p = N(2, 3^2) and K = 10 it is more than six
      times noisier, in d/d loc.
    - `sticking_the_landing`: biased for K > 1, first order.
    - `score_function`: unbiased, every order, also for discrete samples. It takes a baseline for whole bounds.
    - `vimco`: the score function with a baseline for each sample, computed from the K - 1 other samples.

    Args:
        log_p: maps one sample to its log density, a scalar, which need not be normalised. Observations and model
            parameters enter through the closure. The model may share parameters with q.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated.
        key: one PRNG key.
        k: K, the number of samples in a bound, a Python int.
        n: the number of independent bounds to average, a Python int. The cost is n K evaluations of `log_p`.
        gradient: one of the estimators above, or any estimator `(f, q, key, n) -> terms`; or its name. Its f is a
            `Bound`, a function of K samples of shape `(K, *event_shape)`. Its q is a `Copies`, the distribution of K
            independent samples; for rgrad's estimators that have rules for certain distributions (`disarm`,
            `measure_valued`, ...), `q.expand((K,)).to_event(1)`.

    Returns:
        A scalar, per call: the mean of n bounds.

    Raises:
        TypeError: `k` is not an int, `gradient` is not callable, or it needs `q.rsample` and `q` has none.
        ValueError: no `gradient` has this name, `k < 1` (`vimco`: `k < 2`), `log_p` returns a vector, or the draws of `q` depend on one another.

    Example:
        >>> bound = lambda loc: rgrad.iwae(dist.Normal(0.0, 1.0).log_prob, dist.Normal(loc, 1.0), key, k=10, n=1000)
        >>> print(f"{jax.jit(bound)(2.0):.1f}")  # the ELBO is -2, and the log evidence 0
        -0.5

    Source: Burda, Grosse and Salakhutdinov 2016, Importance weighted autoencoders, https://arxiv.org/abs/1509.00519;
    the signal-to-noise ratios: Rainforth et al. 2018, Tighter variational bounds are not necessarily better,
    https://arxiv.org/abs/1802.04537.
    """
    q = as_distribution(q, "iwae")
    check_draw(q, n, "iwae")
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"iwae: k must be a Python int (it is a shape and cannot be traced), got {k!r}")
    if k < 1:
        raise ValueError(f"iwae: k must be at least 1, got {k}")
    named: dict[Any, Estimator] = {**OF_BOUNDS, **{name: row.estimator for name, row in ESTIMATORS.items()}}
    if isinstance(gradient, str) and gradient not in named:
        raise ValueError(f"iwae: unknown gradient {gradient!r}{nearest(gradient, named)}")
    estimator = named[gradient] if isinstance(gradient, str) else gradient
    if not callable(estimator):
        raise TypeError(
            f"iwae: gradient must be callable, or a name, got {gradient!r}; use rgrad.reparameterized, "
            "rgrad.doubly_reparameterized, rgrad.sticking_the_landing, rgrad.score_function, rgrad.vimco, or your "
            "own estimator"
        )
    check_takes(estimator, ("f", "q", "key", "n"), "iwae: gradient")
    if (together := dependent_draws(q)) is not None:
        raise ValueError(f"iwae: the K samples of a bound must be independent; pass q itself, not {together.prefix}(q)")
    log_p, q = opened(log_p, q, estimator)
    copies: Any = Copies(q, k)  # `has_rsample` is read-only
    row, repeated = row_of(estimator), copies.repeated()
    if row is not None and repeated is not None and not row.applies(copies) and row.applies(repeated):
        copies = repeated  # its rules are for types of NumPyro
    return expect(Bound(log_p, q), copies, key, n, estimator)


@dataclass(frozen=True)
class Bound:
    """`log 1/K sum_k p(x_k)/q(x_k)`, a function of K samples at once."""

    log_p: Objective
    q: Any

    def log_weight(self, x: Sample) -> Array:
        """The log weight of one sample."""
        return jnp.asarray(self.log_p(x)) - log_prob_between(self.q, x)

    def log_weights(self, x: Sample) -> Array:
        """The log weights of K samples, shape `(K,)`."""
        return evaluate(self.log_weight, x, len(jax.tree.leaves(x)[0]), "iwae, with f = log_p - log q")

    def __call__(self, x: Sample) -> Array:
        return bound_of(self.log_weights(x))


def bound_of(log_weights: Array) -> Array:
    """The bound `log 1/K sum_k w_k`, from log weights along the last axis."""
    return logsumexp(log_weights, -1) - log(log_weights.shape[-1])


def vimco(f: Objective, q: Any, key: Array, n: int) -> Array:
    """VIMCO: the score function for `iwae`. The baseline of each sample is the bound estimated from the others.

        terms = attach(L, sum_k log q(x_k)) - sum_k (attach(L_-k, log q(x_k)) - L_-k)

    L_-k is L with log w_k replaced by the mean of the other log weights (the geometric mean of the weights). It does
    not depend on x_k, so it adds no bias. Each sample is credited only for what *it* contributes to the bound.

    Needs `q.log_prob`, a support that does not depend on the parameters, finite weights, and K >= 2. Unbiased, and so
    are derivatives of every order. Takes memory for K numbers for each bound.

    Returns:
        Shape `(n,)`, per bound. The bounds are independent.

    Raises:
        TypeError: `f` is not the bound of `iwae`.
        ValueError: K = 1.
        NotImplementedError: the derivative is taken with respect to a parameter on which the support of `q` depends.

    Example:
        >>> log_p = dist.Bernoulli(0.3).log_prob
        >>> bound = lambda logit: rgrad.iwae(log_p, dist.Bernoulli(logits=logit), key, 5, 1000, rgrad.vimco)
        >>> print(f"{jax.jit(jax.grad(bound))(0.0):.2f}")  # the truth is -0.04
        -0.04

    Source: Mnih and Rezende 2016, Variational inference for Monte Carlo objectives, https://arxiv.org/abs/1602.06725.
    """
    bound = _bound(f, "vimco")
    if q.k < 2:
        raise Unsuitable(
            "vimco: k must be at least 2, got 1; its baseline needs another sample, so raise k or use score_function"
        )
    check_draw(q, n, "vimco")
    how, one = base_noise(q), base_noise(q.base)
    eps = how.sample(key, (n,))
    x = jax.tree.map(lax.stop_gradient, how.push(eps))
    log_w = jax.vmap(bound.log_weights)(x)
    log_q = score_density(one, jax.tree.map(lambda e: e.reshape(n * q.k, *e.shape[2:]), eps)).reshape(log_w.shape)
    terms = attach_vimco(log_w, log_q)
    return forbid_moving_support(refuse_never_drawn(terms, q, "vimco"), q, "vimco")


def attach_vimco(log_w: Array, log_q: Array) -> Array:
    """The bound of each row of K log weights, with the derivative of `vimco` for samples of log densities log_q."""
    baseline = _bounds_without_each(lax.stop_gradient(log_w))
    return attach(bound_of(log_w), log_q.sum(-1)) - (attach(baseline, log_q) - baseline).sum(-1)


def _bounds_without_each(log_w: Array) -> Array:
    """Entry k is the bound with log w_k replaced by the mean of the others. Shape `(..., K)`, with memory for K numbers.

    An entry is subtracted from a sum only if a larger one stays in it. For the largest entry, the others are summed
    directly. If they are far smaller, the difference would be nothing but rounding error.
    """
    k = log_w.shape[-1]
    place = lax.broadcasted_iota(jnp.int32, log_w.shape, log_w.ndim - 1)
    largest_of = lambda x: place == jnp.argmax(x, -1, keepdims=True)
    extreme = largest_of(jnp.abs(log_w))
    others = jnp.where(extreme, 0.0, log_w).sum(-1, keepdims=True)
    rest = others + jnp.where(extreme, log_w, 0.0).sum(-1, keepdims=True) - log_w
    rest = jnp.where(jnp.isneginf(log_w), -jnp.inf, rest)  # another one is impossible too
    mean = jnp.where(extreme, others, rest) / (k - 1)
    top = jnp.max(log_w, -1, keepdims=True)
    largest = largest_of(log_w)
    relative = jnp.where(largest, 0.0, jnp.exp(log_w - jnp.where(jnp.isfinite(top), top, 0.0)))
    rest = top + jnp.log1p(jnp.maximum(relative.sum(-1, keepdims=True) - relative, 0.0))
    others = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, log_w), -1, keepdims=True)
    return jnp.logaddexp(jnp.where(largest, others, rest), mean) - log(k)


def sticking_the_landing(f: Objective, q: Any, key: Array, n: int) -> Array:
    """Sticking the landing for `iwae`: the reparameterization trick without the score of q.

        terms = L,   d terms = sum_k u_k (d log p(x_k) + d/dx (log p(x_k) - log q(x_k)) dx_k)

    Here `d log p(x_k)` is the derivative with respect to the parameters of log_p, at constant x_k.

    Needs `q.rsample`, and a `log_p` that is differentiable.

    Unbiased for K = 1. **Biased for K > 1**: the dropped term, `-sum_k u_k d log q(x_k)`, no longer has mean 0, because
    the weights depend on the samples. For q = N(1/2, 1) and p = N(0, 1), this estimate of d/d loc is -1/2 for every K
    and every sample, while the gradient of the bound is -0.275 at K = 2 and -0.076 at K = 8. If q = p, this estimate is
    exactly 0, as it should be. The gradient for the parameters of `log_p` is unbiased for every K. To first order only:
    a second derivative raises.

    For the ELBO, use `rgrad.elbo(..., entropy="detached")`.

    Returns:
        Shape `(n,)`, per bound. The bounds are independent.

    Raises:
        TypeError: `f` is not the bound of `iwae`, or `q` has no `rsample`.
        NotImplementedError: at trace time, a second derivative is taken.

    Example:
        >>> log_p = dist.Normal(0.0, 1.0).log_prob
        >>> bound = lambda loc: rgrad.iwae(log_p, dist.Normal(loc, 1.0), key, k=8, gradient=rgrad.sticking_the_landing)
        >>> print(f"{jax.jit(jax.grad(bound))(0.5):.2f}")  # biased: the truth is -0.08
        -0.50

    Source: Roeder, Wu and Duvenaud 2017, Sticking the landing, https://arxiv.org/abs/1703.09194; the bias: Tucker et
    al. 2018, https://arxiv.org/abs/1810.04152.
    """
    return _through_samples(f, q, key, n, "sticking_the_landing", power=1)


def doubly_reparameterized(f: Objective, q: Any, key: Array, n: int) -> Array:
    """DReG for `iwae`: the reparameterization trick, applied a second time to the score that the first one leaves.

        terms = L,   d terms = sum_k u_k d log p(x_k) + sum_k u_k^2 d/dx (log p(x_k) - log q(x_k)) dx_k

    Here `d log p(x_k)` is the derivative with respect to the parameters of log_p, at constant x_k. Their gradient is
    the same as with `reparameterized`. The gradient for the parameters of q passes only through the samples, weighted
    by the squares of the weights. A parameter that both share gets both parts.

    Needs `q.rsample`, and a `log_p` that is differentiable. Unbiased for every K. If q = p, the gradient for q is
    exactly 0. For K = 1 this is `sticking_the_landing`. To first order only: a second derivative raises.

    Returns:
        Shape `(n,)`, per bound. The bounds are independent.

    Raises:
        TypeError: `f` is not the bound of `iwae`, or `q` has no `rsample`.
        NotImplementedError: at trace time, a second derivative is taken.

    Example:
        >>> log_p = dist.Normal(0.0, 1.0).log_prob
        >>> bound = lambda loc: rgrad.iwae(log_p, dist.Normal(loc, 1.0), key, 8, 1000, rgrad.doubly_reparameterized)
        >>> print(f"{jax.jit(jax.grad(bound))(0.5):.2f}")  # the truth is -0.08
        -0.08

    Source: Tucker, Lawson, Gu and Maddison 2018, Doubly reparameterized gradient estimators for Monte Carlo objectives,
    https://arxiv.org/abs/1810.04152.
    """
    return _through_samples(f, q, key, n, "doubly_reparameterized", power=2)


def _through_samples(f: Objective, q: Any, key: Array, n: int, caller: str, power: int) -> Array:
    """L. Its derivative in the samples is `u_k^power d/dx log w_k`; that in the parameters of log_p is not changed.

    The same log_p is differentiated in both, and `jax.grad` could not weight the two differently. So the derivative in
    the samples is written by hand.
    """
    bound = _bound(f, caller)
    x = draw_pathwise(q, key, n, caller)
    leaves, structure = jax.tree.flatten(x)
    constant = jax.tree.unflatten(structure, [lax.stop_gradient(leaf) for leaf in leaves])
    fixed = Bound(bound.log_p, detach(bound.q))
    log_w = jax.vmap(fixed.log_weights)(constant)
    weights = jax.nn.softmax(log_w) ** power
    slopes = jax.tree.leaves(jax.vmap(jax.vmap(jax.grad(fixed.log_weight)))(constant))
    gradients = [weights.reshape(weights.shape + (1,) * (s.ndim - 2)) * s for s in slopes]
    return first_order(bound_of(log_w), leaves, gradients, caller)


def _bound(f: Objective, caller: str) -> Bound:
    if not isinstance(f, Bound):
        raise TypeError(
            f"{caller}: f must be the bound of rgrad.iwae; call rgrad.iwae(log_p, q, key, k, gradient={caller})"
        )
    return f


OF_BOUNDS = {e.__name__: e for e in (vimco, sticking_the_landing, doubly_reparameterized)}
