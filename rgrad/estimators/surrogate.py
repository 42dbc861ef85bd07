"""The score function for samples that come from elsewhere."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.autodiff import attach, first_order
from rgrad.estimators.baselines import Baseline, baseline_values, leave_one_out, leave_one_out_of_group, plain
from rgrad.tracing.provenance import check_no_copies, check_not_made_of, nan_if


def surrogate(
    values: ArrayLike,
    log_prob: ArrayLike,
    baseline: Baseline | None = None,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    normalized: bool = True,
) -> Array:
    """The score function for samples that come from elsewhere: a rollout, MCMC, a replay buffer.

        terms_i = w_i (attach(v_i, log q(x_i)) - (attach(b_i, log q(x_i)) - b_i))

    The mean of the terms estimates `E_q[v]`, and its gradient is the gradient estimate: differentiate
    `surrogate(...).mean()`. Derivatives of every order are correct if `log_prob` is normalised.

    Args:
        values: shape `(n,)`, the cost or reward of each sample. Its own derivative is kept.
        log_prob: shape `(n,)`, the log density of each sample under `q`, differentiable in the parameters. The samples
            themselves must be constants (`lax.stop_gradient`). If an entry is infinite, nothing is attached to its
            value (`rgrad.attach`).
        baseline: as in `score_function`. None means 0, or `leave_one_out` if `groups` are given. An array must not be
            computed from `values`: this raises if it can be detected. `rgrad.independent(array)` skips the check.
        weights: shape `(n,)`, the importance weights `q(x_i)/p(x_i)` of samples from another distribution `p`. They are
            treated as constants (otherwise the derivative of `q` would count twice). `leave_one_out` is then the
            weighted mean of the others.
        mask: shape `(n,)`, False for padding. Masked terms are 0, and the others are scaled by n / (number of the
            others), so that `terms.mean()` is the mean over the others. If all are masked, it is 0. Values and log
            densities of padding may be nan, but what they are *computed* from must be finite, or the chain rule outside
            this function gives 0 * nan.
        groups: shape `(n,)`, integers. Samples of one group share a `q` (e.g. several answers to one question, as in
            RLOO), and `leave_one_out` centres within the group. Each group needs at least two samples, and no two of
            them may be copies of one value (e.g. the tokens of one answer): copies raise if they can be detected.
        normalized: False says that `log_prob` lacks its normaliser, which depends on the parameters. The gradient is
            then correct only if centring within each group cancels the normaliser. So the only baseline that is
            accepted is `leave_one_out` without weights. It is correct to first order only, so a second derivative
            raises.

    Returns:
        Shape `(n,)`, per sample. A `log_prob` that is nan gives nan, never a gradient of zero.

    Raises:
        ValueError: shapes differ, groups have another baseline or a single sample, a baseline uses its own value, or
            `normalized=False` is used with anything but centring.
        NotImplementedError: at trace time, a second derivative with `normalized=False`.

    Example:
        >>> x = 2.0 + jax.random.normal(key, (10_000,))  # drawn elsewhere, from Normal(2, 1)
        >>> log_q = lambda theta: rgrad.log_prob(dist.Normal(theta, 1.0), x)
        >>> loss = lambda theta: rgrad.surrogate(x**2, log_q(theta), baseline=rgrad.leave_one_out).mean()
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 4
        4.1

    Source: Schulman et al. 2015, Gradient estimation using stochastic computation graphs,
    https://arxiv.org/abs/1506.05254. Groups: Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for free!,
    https://openreview.net/forum?id=r1lgTGL5DE; Ahmadian et al. 2024, RLOO, https://arxiv.org/abs/2402.14740.
    """
    v, log_q = jnp.asarray(values), jnp.asarray(log_prob)
    v = v.astype(jnp.result_type(v, log_q, float))  # an integer or bool becomes a float
    _check_shapes(v, log_prob=log_q, weights=weights, mask=mask, groups=groups)
    baseline = plain(baseline)
    if baseline is None:
        baseline = leave_one_out if groups is not None else 0.0
    if groups is not None and baseline is not leave_one_out:
        raise ValueError(
            "surrogate: groups say where leave_one_out centres, and another baseline ignores them; use "
            "baseline=leave_one_out, or leave groups out"
        )
    if not normalized and (baseline is not leave_one_out or weights is not None):
        raise ValueError(
            "surrogate: an unnormalised log_prob is right only if centring within each group cancels its normaliser; use "
            "baseline=leave_one_out without weights, or normalise log_prob"
        )
    w = None if weights is None else lax.stop_gradient(jnp.asarray(weights))
    if mask is not None:
        keep = jnp.asarray(mask, bool)
        # Masked entries are replaced before any arithmetic: padding may contain nan, in the values and in their
        # derivatives.
        v, log_q = jnp.where(keep, v, 0.0), jnp.where(keep, log_q, 0.0)
        w = jnp.where(keep, 1.0 if w is None else w, 0.0)
    copies = check_no_copies(values, groups, mask) if baseline is leave_one_out and hasattr(values, "size") else None
    check_not_made_of(baseline, values)
    b: Array | None = None
    if baseline is leave_one_out and not (w is None and groups is None):
        b = leave_one_out_of_group(v, jnp.ones_like(v) if w is None else w, mask, groups)
    elif not (isinstance(baseline, int | float) and baseline == 0):
        b = baseline_values(baseline, v)

    if b is None:
        terms = attach(v, log_q)
    elif not normalized:
        terms = first_order(v, [log_q], [v - b], "surrogate(normalized=False)")
    else:
        # `attach(v, log_q) - (attach(b, log_q) - b)`, with the difference taken first: both may be large.
        terms = v + (attach(v - b, log_q) - (v - b))
    if w is not None:
        terms = w * terms
    if mask is not None:
        terms = terms * (v.size / jnp.maximum(keep.sum(), 1))
    return terms * nan_if(copies) + nan_where_nan(log_q)


def _check_shapes(values: Array, **others: ArrayLike | None) -> None:
    if values.ndim != 1:
        raise ValueError(f"surrogate: values has shape {values.shape}; it must be (n,), one value for each sample")
    for name, x in others.items():
        if x is not None and jnp.shape(x) != values.shape:
            raise ValueError(f"surrogate: {name} has shape {jnp.shape(x)}; it must be {values.shape}, like values")


def nan_where_nan(log_q: Array) -> Array:
    """0, or nan with a derivative of nan for entries of `log_q` that are nan.

    `attach` gives such entries a derivative of zero.
    """
    bad = jnp.isnan(log_q)
    return jnp.where(bad, log_q, 0.0) * jnp.where(bad, jnp.nan, 0.0)
