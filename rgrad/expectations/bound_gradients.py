"""Gradient estimators of multi-sample bounds that use the weight of each sample, which a `Bound` provides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import logsumexp
from jax.typing import ArrayLike

from rgrad.autodiff import attach, first_order
from rgrad.distributions.base_noise import base_noise, score_density
from rgrad.distributions.detach import detach
from rgrad.distributions.draws import check_draw, draw_pathwise, evaluate
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.relaxations import log_prob_between
from rgrad.distributions.support import forbid_moving_support
from rgrad.errors import Unsuitable
from rgrad.estimators.baselines import leave_one_out
from rgrad.protocols import Objective, Sample


@dataclass(frozen=True)
class Bound:
    """The bound of `renyi` at one set of K samples, a function of all of them at once."""

    log_p: Objective
    q: Any
    alpha: ArrayLike = 0.0
    caller: str = "iwae"

    def log_weight(self, x: Sample) -> Array:
        """The log weight of one sample, `log p(x) - log q(x)`."""
        return jnp.asarray(self.log_p(x)) - log_prob_between(self.q, x)

    def log_weights(self, x: Sample) -> Array:
        """The log weights of K samples, shape `(K,)`."""
        return evaluate(self.log_weight, x, len(jax.tree.leaves(x)[0]), f"{self.caller}, with f = log_p - log q")

    def __call__(self, x: Sample) -> Array:
        return renyi_of(self.log_weights(x), self.alpha)


def bound_of(log_weights: Array) -> Array:
    """The bound `log 1/K sum_k w_k`, from log weights along the last axis."""
    return logsumexp(log_weights, -1) - log(log_weights.shape[-1])


def renyi_of(log_weights: Array, alpha: ArrayLike) -> Array:
    """The bound `1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha)`, from log weights along the last axis.

    Near alpha = 1, where this is 0/0, it is the first terms of its series: cumulants of the log weights.
    """
    if _is_zero(alpha):
        return bound_of(log_weights)
    power = _power(alpha, log_weights)
    low, high = (lax.stop_gradient(of(log_weights, -1, keepdims=True)) for of in (jnp.min, jnp.max))
    close = jnp.isfinite(high - low)
    spread = jnp.where(close, high - low, jnp.inf)
    near = (power == 0) | (jnp.abs(power) * spread < jnp.finfo(log_weights.dtype).eps ** 0.25)
    mean = log_weights.mean(-1, keepdims=True)
    off = jnp.where(near & close, log_weights - lax.stop_gradient(mean), 0.0)
    first, second, third = ((off**i).mean(-1, keepdims=True) for i in (1, 2, 3))
    cumulants = second - first**2, third - 3 * first * second + 2 * first**3
    series = mean + power / 2 * cumulants[0] + power**2 / 6 * cumulants[1]
    b = jnp.where(near, 1.0, power)
    top = jnp.where(b > 0, high, low)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    none = jnp.isneginf(log_weights)  # its derivative in alpha would be nan
    t = jnp.where(none, jnp.where(b > 0, -jnp.inf, jnp.inf), b * (jnp.where(none, top, log_weights) - top))
    less = jnp.expm1(t).mean(-1, keepdims=True)  # accurate if b is small: nothing cancels, as all t have one sign
    much = less < -0.5
    log_mean = jnp.where(
        much,
        jnp.log(jnp.where(much, jnp.exp(t).mean(-1, keepdims=True), 1.0)),
        jnp.log1p(jnp.where(much, 0.0, less)),
    )
    return jnp.where(near, series, top + log_mean / b)[..., 0]


def _powers(log_weights: Array, alpha: ArrayLike) -> Array:
    """`(1 - alpha) log w`. If alpha is 1 it is 0, even where w is 0."""
    power = _power(alpha, log_weights)
    return log_weights if _is_zero(alpha) else jnp.where(power == 0, 0.0, power * log_weights)


def _power(alpha: ArrayLike, like: Array) -> Array:
    return (1 - jnp.asarray(alpha)).astype(like.dtype)


def _is_zero(alpha: ArrayLike) -> bool:
    return not isinstance(alpha, Array) and bool(alpha == 0)


def vimco(f: Objective, q: Any, key: Array, n: int) -> Array:
    """VIMCO: the score function for `iwae` and `renyi`. The baseline of each sample is the bound of the others.

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
    terms = attach_vimco(log_w, log_q, bound.alpha)
    return forbid_moving_support(refuse_never_drawn(terms, q, "vimco"), q, "vimco")


def attach_vimco(log_w: Array, log_q: Array, alpha: ArrayLike = 0.0) -> Array:
    """The bound of each row of K log weights, with the derivative of `vimco` for samples of log densities log_q."""
    constant = lax.stop_gradient(log_w)
    if _is_zero(alpha):
        baseline = _bounds_without_each(constant)
    else:
        power = lax.stop_gradient(_power(alpha, log_w))
        near = jnp.abs(power) < 1e-3  # at 0 the bound is a mean. A baseline need not be accurate
        power = jnp.where(near, 1.0, power)
        baseline = jnp.where(near, jax.vmap(leave_one_out)(constant), _bounds_without_each(power * constant) / power)
    return attach(renyi_of(log_w, alpha), log_q.sum(-1)) - (attach(baseline, log_q) - baseline).sum(-1)


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
    """Sticking the landing for `iwae` and `renyi`: the reparameterization trick without the score of q.

        terms = L,   d terms = sum_k u_k (d log p(x_k) + d/dx (log p(x_k) - log q(x_k)) dx_k)

    Here u_k are the normalised weights, for `renyi` those of `w_k^(1 - alpha)`, and `d log p(x_k)` is the derivative with respect to the parameters of log_p, at constant x_k.

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
    """DReG for `iwae` and `renyi`: the reparameterization trick, applied again to the score that the first one leaves.

        terms = L,   d terms = sum_k u_k d log p(x_k) + sum_k c_k d/dx (log p(x_k) - log q(x_k)) dx_k

    Here u_k are the normalised weights and `c_k = u_k^2`. For `renyi`, u_k are those of `w_k^(1 - alpha)`, and
    `c_k = alpha u_k + (1 - alpha) u_k^2`. `d log p(x_k)` is the derivative with respect to the parameters of log_p, at
    constant x_k. Their gradient is the same as with `reparameterized`. The gradient for the parameters of q passes only
    through the samples. A parameter that both share gets both parts.

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
    """L. Its derivative in the samples is `c_k d/dx log w_k`; that in the parameters of log_p is not changed.

    For power 1, c_k is u_k. For power 2, the score that is left over, `-u_k d log q(x_k)`, also passes through the
    samples: `c_k = u_k - (1 - alpha) (u_k - u_k^2)`, because `du_k = (1 - alpha) (u_k - u_k^2) d log w_k`.

    The same log_p is differentiated in both, and `jax.grad` could not weight the two differently. So the derivative in
    the samples is written by hand.
    """
    bound = _bound(f, caller)
    x = draw_pathwise(q, key, n, caller)
    leaves, structure = jax.tree.flatten(x)
    constant = jax.tree.unflatten(structure, [lax.stop_gradient(leaf) for leaf in leaves])
    fixed = replace(bound, q=detach(bound.q))
    log_w = jax.vmap(fixed.log_weights)(constant)
    weights = jax.nn.softmax(_powers(log_w, bound.alpha))
    if power == 2:
        power_of_w = _power(bound.alpha, log_w)
        weights = (1 - power_of_w) * weights + power_of_w * weights**2
    slopes = jax.tree.leaves(jax.vmap(jax.vmap(jax.grad(fixed.log_weight)))(constant))
    gradients = [weights.reshape(weights.shape + (1,) * (s.ndim - 2)) * s for s in slopes]
    return first_order(renyi_of(log_w, bound.alpha), leaves, gradients, caller)


def _bound(f: Objective, caller: str) -> Bound:
    if not isinstance(f, Bound):
        raise TypeError(
            f"{caller}: f must be the bound of rgrad.iwae; call rgrad.iwae(log_p, q, key, k, gradient={caller})"
        )
    return f


OF_BOUNDS = {e.__name__: e for e in (vimco, sticking_the_landing, doubly_reparameterized)}
