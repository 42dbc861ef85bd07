"""The score function, or REINFORCE: with the drawing (`score_function`) and without it (`surrogate`)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.autodiff import attach, first_order
from rgrad.distributions.admission import nan_outside_support
from rgrad.distributions.base_noise import base_noise, nan_if_not_finite, score_density
from rgrad.distributions.counts import of_counts
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, sample_of
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.support import forbid_moving_support
from rgrad.estimators.baselines import (
    Baseline,
    baseline_values,
    check_leaves_out_dependent,
    leave_one_out,
    leave_one_out_of_group,
)
from rgrad.estimators.control_variates import ControlVariate, delta, given_back, optimal
from rgrad.protocols import Objective
from rgrad.tracing.independence import independent
from rgrad.tracing.provenance import check_no_copies, check_not_made_of, nan_if


def score_function(
    f: Objective,
    q: Any,
    key: Array,
    n: int,
    *,
    baseline: Baseline = 0.0,
    control_variate: ControlVariate | None = None,
) -> Array:
    """The gradient moves inside, through the density: `d E_q[f(x)] = E_q[(f(x) - b) d log q(x) + d f(x)]`.

        terms_i = attach(f(x_i), log q(x_i)) - (attach(b_i, log q(x_i)) - b_i)

    and with a control variate h, of known expectation, f - h in place of f:

        terms_i = attach(f(x_i) - h(x_i), log q(x_i)) - (attach(b_i, log q(x_i)) - b_i) + E_q[h]

    Needs `q.log_prob`, and a support that does not move with the parameters; of `f` nothing but a finite variance.
    Unbiased, and so are derivatives of every order (`jax.hessian`), with every baseline and control variate.

    log q is taken at the noise that a sample is made of, if that is known (location-scale families, Gamma, Beta, Dirichlet,
    Weibull, Kumaraswamy, and transforms and events of them), so that it does not matter that samples are rounded: at small
    concentrations, for a saturated sigmoid, for Normal(1e4, 1e-3). The gradient is nan if too little is left of them: a scale
    below the distance of floats near loc (let f add loc to a sample about 0, or use 64 bits or `reparameterized`), or a
    sample of another distribution that is rounded to the edge of its support (use 64 bits, or draw a logarithm or logit).
    It is nan or raises in a probability of exactly 0 or 1 and a rate of 0: what that is about is never drawn.

    Counts that may be above 46,340 (Poisson, Binomial(10**5, p)) are given to f as floats if f multiplies or sums integers.

    Args:
        baseline: a number (traced or not), `leave_one_out`, a `MovingAverage`, or a function of the `n` values whose
            i-th output does not use the i-th value (see `rgrad.estimators.baselines`); or `optimal`, a constant for each parameter
            coordinate. With a control variate, the values are those of f - h.
        control_variate: `delta`, a pair `(h, E_q[h])`, or a function `(f, q) -> (h, E_q[h])`. See
            `rgrad.estimators.control_variates`. Under `keyed=True` h is a function of x alone.

    Returns:
        Shape `(n,)`, per sample; the values are those of `f`, whatever the baseline (not so with a control variate:
        their mean is still an unbiased estimate). With a baseline that is a function of the values the terms depend on
        one another.

    Raises:
        ValueError: a baseline that uses its own sample, or another that depends on it (`antithetic(q)`), `leave_one_out`
            or `optimal` with n = 1, `n < 1`, `q` with a batch shape, f returns a vector, or the derivative is taken of a
            probability that is known to be 0 or 1.
        NotImplementedError: the derivative is taken of a parameter on which the support of `q` depends.

    Source: Williams 1992, REINFORCE; Glynn 1990; baselines: Greensmith, Bartlett and Baxter 2004; control variates:
    Paisley, Blei and Jordan 2012.
    """
    if (together := dependent_draws(q)) is not None:
        pairs = together.pairs and baseline is not optimal
        check_leaves_out_dependent(baseline, n, together.prefix, pairs)
    check_draw(q, n, "score_function")
    how = base_noise(q)
    eps = how.sample(key, (n,))
    x = nan_outside_support(q, jax.tree.map(lax.stop_gradient, how.push(eps)))
    values, expectation = evaluate(of_counts(f, q, "score_function"), x, n, "score_function"), jnp.zeros(())
    if control_variate is not None:
        h, known = _pair(control_variate, f, q)
        # h has no randomness of its own
        values, expectation = values - evaluate(h, sample_of(q, x), n, "control_variate"), jnp.asarray(known)
        if expectation.shape != ():
            raise ValueError(f"score_function: the expectation of the control variate has shape {expectation.shape}; it "
                             "must be one number, the mean of h over q")  # fmt: skip
    log_q = score_density(how, eps)
    if baseline is optimal:
        terms = surrogate(values, log_q) - given_back(values, q, eps)
    else:
        if callable(baseline) and together is not None and together.pairs:
            baseline = independent(baseline_values(baseline, values, pairs=True))
        terms = surrogate(values, log_q, baseline)
    if how.source is q:  # the density is not one of this package's
        terms = nan_if_not_finite(terms, log_q, q)
    terms = refuse_never_drawn(terms + expectation, q, "score_function")
    return forbid_moving_support(terms, q, "score_function")


def _pair(control_variate: Any, f: Objective, q: Any) -> tuple[Objective, ArrayLike]:
    """`(h, E_q[h])`, made of f and q where it is to be made."""
    pair = control_variate
    if callable(control_variate) and control_variate is not optimal:
        pair = control_variate(f, q if control_variate is delta else base_of(q))
    if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[0])):
        raise TypeError(
            f"score_function: control_variate = {control_variate!r} is no pair (h, expectation), nor a function (f, q) that "
            "makes one; write control_variate=rgrad.delta, or baseline=rgrad.optimal for that"
        )
    return pair


def surrogate(
    values: ArrayLike,
    log_prob: ArrayLike,
    baseline: Baseline | None = None,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    normalized: bool = True,
) -> Array:
    """The score function without the drawing, for samples that come from elsewhere: a rollout, MCMC, a replay buffer.

        terms_i = w_i (attach(v_i, log q(x_i)) - (attach(b_i, log q(x_i)) - b_i))

    The mean of the terms estimates `E_q[v]`, and its gradient is the gradient estimate: `surrogate(...).mean()` is what
    to differentiate. Derivatives of every order are right where `log_prob` is normalised.

    Args:
        values: shape `(n,)`, what was paid for each sample. Its own derivative is kept.
        log_prob: shape `(n,)`, the log density of each sample under `q`, differentiable in the parameters. The samples
            themselves must be constants (`lax.stop_gradient`). Where it is infinite nothing is attached (`rgrad.attach`).
        baseline: as in `score_function`. None: 0, or `leave_one_out` where `groups` are given. An array must not be
            computed from `values`: that is refused as far as it can be seen, and `rgrad.independent` vouches for it.
        weights: shape `(n,)`, the importance weights `q(x_i)/p(x_i)` of samples from another `p`; taken as constants
            (the derivative of `q` in them would count twice). `leave_one_out` then is the weighted mean of the others.
        mask: shape `(n,)`, False for padding. The mean is over the rest: masked terms are 0, and the others are scaled
            by n / (how many are left), so that `terms.mean()` is their mean. 0 where all are masked. Values and log
            densities of padding may be nan; but make what they are *computed* from finite, or the chain rule beyond this
            function gives 0 * nan.
        groups: shape `(n,)`, integers: samples of the same group share a `q` (several answers to one question, as in
            RLOO), and `leave_one_out` centres within it. Each group needs two samples, and no two that are copies of one
            value (tokens of one answer), which is refused as far as it can be seen.
        normalized: False says that `log_prob` lacks its normaliser, which depends on the parameters. That is right only
            where centring within each group cancels the normaliser, so `leave_one_out` without weights is the one
            baseline accepted; and only to first order, so a second derivative raises.

    Returns:
        Shape `(n,)`, per sample. A `log_prob` that is nan gives nan, never a gradient of zero.

    Raises:
        ValueError: shapes that differ, groups with another baseline or with a single sample, a baseline that uses its
            own value, or `normalized=False` with anything but centring.
        NotImplementedError: at trace time, a second derivative where `normalized=False`.

    Source: Schulman et al. 2015, "Gradient estimation using stochastic computation graphs"; groups: Kool et al. 2019,
    Ahmadian et al. 2024 (RLOO).
    """
    v, log_q = jnp.asarray(values), jnp.asarray(log_prob)
    v = v.astype(jnp.result_type(v, log_q, float))  # an integer or bool becomes a float
    _check_shapes(v, log_prob=log_q, weights=weights, mask=mask, groups=groups)
    if baseline is None:
        baseline = leave_one_out if groups is not None else 0.0
    if groups is not None and baseline is not leave_one_out:
        raise ValueError("surrogate: groups say where leave_one_out centres, and another baseline ignores them; use "
                         "baseline=leave_one_out, or leave groups out")  # fmt: skip
    if not normalized and (baseline is not leave_one_out or weights is not None):
        raise ValueError("surrogate: an unnormalised log_prob is right only where centring within each group cancels "
                         "its normaliser; use baseline=leave_one_out without weights, or normalise log_prob")  # fmt: skip
    w = None if weights is None else lax.stop_gradient(jnp.asarray(weights))
    if mask is not None:
        keep = jnp.asarray(mask, bool)
        # What is masked is replaced before any arithmetic: padding may hold nan, in the values and in their derivatives.
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
        # `attach(v, log_q) - (attach(b, log_q) - b)`, but with the difference taken first: both may be large.
        terms = v + (attach(v - b, log_q) - (v - b))
    if w is not None:
        terms = w * terms
    if mask is not None:
        terms = terms * (v.size / jnp.maximum(keep.sum(), 1))
    return terms * nan_if(copies) + _nan_where_nan(log_q)


def _check_shapes(values: Array, **others: ArrayLike | None) -> None:
    if values.ndim != 1:
        raise ValueError(f"surrogate: values has shape {values.shape}; it must be (n,), one value for each sample")
    for name, x in others.items():
        if x is not None and jnp.shape(x) != values.shape:
            raise ValueError(f"surrogate: {name} has shape {jnp.shape(x)}; it must be {values.shape}, as values")


def _nan_where_nan(log_q: Array) -> Array:
    """0, and nan with a derivative of nan where `log_q` is nan (`attach` alone would give a gradient of zero there)."""
    bad = jnp.isnan(log_q)
    return jnp.where(bad, log_q, 0.0) * jnp.where(bad, jnp.nan, 0.0)
