"""Multi-sample bounds on a log evidence: importance-weighted ELBOs and Renyi bounds.

A bound from K samples is an expectation over *K samples at once*, so any estimator can differentiate it. Three
estimators also use the weight of each sample: `vimco`, `sticking_the_landing` and `doubly_reparameterized`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rgrad.distributions.copies import Copies
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import check_draw
from rgrad.distributions.others import as_distribution
from rgrad.errors import check_takes, nearest
from rgrad.estimators.opened import opened
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import ESTIMATORS, row_of
from rgrad.expectations.bound_gradients import Bound, doubly_reparameterized, sticking_the_landing, vimco
from rgrad.expectations.expectation import expect
from rgrad.protocols import Distribution, Estimator, Objective

OF_BOUNDS = {e.__name__: e for e in (vimco, sticking_the_landing, doubly_reparameterized)}


def iwae(
    log_p: Objective, q: Distribution, key: Array, k: int, n: int = 1, gradient: Estimator | str = reparameterized
) -> Array:
    """The importance-weighted bound from K samples, a lower bound on `log integral exp(log_p(x)) dx`:

        L_K = E[log 1/K sum_k w_k],   log w_k = log p(x_k) - log q(x_k),   x_k ~ q

    L_1 is the ELBO. As K grows, L_K increases to the log evidence. Maximise it: the loss is its negative. `renyi` has
    bounds between L_K and the ELBO, and others.

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
    return _expected_bound(log_p, q, key, k, n, gradient, 0.0, "iwae")


def renyi(
    log_p: Objective,
    q: Distribution,
    key: Array,
    k: int,
    n: int = 1,
    gradient: Estimator | str = reparameterized,
    *,
    alpha: ArrayLike,
) -> Array:
    """The Renyi bound of order alpha from K samples. As K grows it tends to `log evidence - D_alpha(q || posterior)`:

        L_alpha,K = 1/(1 - alpha) E[log 1/K sum_k w_k^(1 - alpha)],   log w_k = log p(x_k) - log q(x_k),   x_k ~ q

    alpha = 0 is `iwae`, and alpha = 1 is the ELBO, whatever K is: the limit, without 0/0 for an alpha near 1. For K = 1
    every alpha gives the ELBO. Between 0 and 1 it is a lower bound on the log evidence, which increases with K. For
    alpha > 1 it decreases with K, and is even looser than the ELBO. For alpha < 0 it may exceed the log evidence. The
    larger alpha is, the more q avoids regions where p is small (it seeks a mode); the smaller alpha is, the more it
    covers.

    The weight of each sample in the gradient is `u_k = w_k^(1 - alpha) / sum_j w_j^(1 - alpha)`. The choices for
    `gradient` are those of `iwae`. `reparameterized` and the score functions are unbiased, to every order, as is
    `vimco`. `doubly_reparameterized` is unbiased to first order: it weights the path of each sample by
    `alpha u_k + (1 - alpha) u_k^2`. So if q = p, its gradient for q is exactly 0. `sticking_the_landing` is biased,
    unless K = 1 or alpha = 1.

    Args:
        log_p: as in `iwae`, like the arguments after it.
        alpha: a number, which may be traced and differentiated. If a weight is 0 and alpha >= 1, the bound is -inf.

    Returns:
        A scalar, per call: the mean of n bounds.

    Raises:
        TypeError: `alpha` is not a real number; or as `iwae`.
        ValueError: `alpha` is not one finite number; or as `iwae`.

    Example:
        >>> log_p, q = dist.Normal(0.0, 1.0).log_prob, dist.Normal(2.0, 1.0)
        >>> bound = jax.jit(lambda alpha: rgrad.renyi(log_p, q, key, k=10, n=1000, alpha=alpha))
        >>> print(*(f"{bound(alpha):.1f}" for alpha in (0.0, 0.5, 1.0, 2.0)))  # the log evidence is 0
        -0.5 -1.1 -2.0 -3.5

    Source: Li and Turner 2016, Renyi divergence variational inference, https://arxiv.org/abs/1602.02311.
    """
    if not isinstance(alpha, jax.core.Tracer):
        kind = np.asarray(alpha).dtype
        if not jnp.issubdtype(kind, jnp.floating) and not jnp.issubdtype(kind, jnp.integer):
            raise TypeError(f"renyi: alpha must be a real number, got {alpha!r}")
        if np.shape(alpha) != () or not np.isfinite(alpha):
            raise ValueError(f"renyi: alpha must be one finite number (e.g. 0.5), got {alpha}")
    elif alpha.shape != ():
        raise ValueError(f"renyi: alpha must be one number, got shape {alpha.shape}; use vmap for several")
    return _expected_bound(log_p, q, key, k, n, gradient, alpha, "renyi")


def _expected_bound(
    log_p: Objective, q: Any, key: Array, k: int, n: int, gradient: Estimator | str, alpha: ArrayLike, caller: str
) -> Array:
    """The expectation of the bound of K samples. It is that of `iwae` if alpha is the constant 0."""
    q = as_distribution(q, caller)
    check_draw(q, n, caller)
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"{caller}: k must be a Python int (it is a shape and cannot be traced), got {k!r}")
    if k < 1:
        raise ValueError(f"{caller}: k must be at least 1, got {k}")
    named: dict[Any, Estimator] = {**OF_BOUNDS, **{name: row.estimator for name, row in ESTIMATORS.items()}}
    if isinstance(gradient, str) and gradient not in named:
        raise ValueError(f"{caller}: unknown gradient {gradient!r}{nearest(gradient, named)}")
    estimator = named[gradient] if isinstance(gradient, str) else gradient
    if not callable(estimator):
        raise TypeError(
            f"{caller}: gradient must be callable, or a name, got {gradient!r}; use rgrad.reparameterized, "
            "rgrad.doubly_reparameterized, rgrad.sticking_the_landing, rgrad.score_function, rgrad.vimco, or your "
            "own estimator"
        )
    check_takes(estimator, ("f", "q", "key", "n"), f"{caller}: gradient")
    if (together := dependent_draws(q)) is not None:
        raise ValueError(
            f"{caller}: the K samples of a bound must be independent; pass q itself, not {together.prefix}(q)"
        )
    log_p, q = opened(log_p, q, estimator)
    copies: Any = Copies(q, k)  # `has_rsample` is read-only
    row, repeated = row_of(estimator), copies.repeated()
    if row is not None and repeated is not None and not row.applies(copies) and row.applies(repeated):
        copies = repeated  # its rules are for types of NumPyro
    return expect(Bound(log_p, q, alpha, caller), copies, key, n, estimator)
