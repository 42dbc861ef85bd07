"""The score function, also called REINFORCE."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from rgrad.distributions.admission import nan_outside_support
from rgrad.distributions.base_noise import base_noise, nan_if_not_finite, score_density
from rgrad.distributions.counts import of_counts
from rgrad.distributions.dependent import dependent_draws
from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.keyed import base_of, sample_of
from rgrad.distributions.probabilities import refuse_never_drawn
from rgrad.distributions.support import forbid_moving_support
from rgrad.estimators.baselines import Baseline, baseline_values, check_leaves_out_dependent, plain
from rgrad.estimators.control_variates import ControlVariate, delta, given_back, optimal
from rgrad.estimators.surrogate import surrogate
from rgrad.protocols import Distribution, Objective, Sample
from rgrad.tracing.independence import independent


def score_function(
    f: Objective,
    q: Distribution,
    key: Array,
    n: int,
    *,
    baseline: Baseline = 0.0,
    control_variate: ControlVariate | None = None,
) -> Array:
    """The score function (REINFORCE): `d E_q[f(x)] = E_q[(f(x) - b) d log q(x) + d f(x)]`.

        terms_i = attach(f(x_i), log q(x_i)) - (attach(b_i, log q(x_i)) - b_i)

    With a control variate h of known expectation, f - h replaces f:

        terms_i = attach(f(x_i) - h(x_i), log q(x_i)) - (attach(b_i, log q(x_i)) - b_i) + E_q[h]

    Needs `q.log_prob`, and a support that does not depend on the parameters. f may be any function of finite variance.
    The estimate is unbiased, and so are its derivatives of every order (`jax.hessian`), for every baseline and control
    variate.

    If the noise behind a sample is known, log q is evaluated at that noise (location-scale families, Gamma, Beta,
    Dirichlet, Weibull, Kumaraswamy, and transforms and events of them). Rounded samples then do no harm: small
    concentrations, a saturated sigmoid and Normal(1e4, 1e-3) give the correct gradient. The gradient is nan in three
    cases:

    - The scale is smaller than the distance between floats near loc. Draw a sample around 0 and let f add loc, or use
      64 bits or `reparameterized`.
    - A sample of another distribution is rounded to the edge of its support. Use 64 bits, or draw a logarithm or a
      logit.
    - A probability is exactly 0 or 1, or a rate is 0. The samples that determine its derivative are never drawn.
      (Outside `jit` it raises instead, except for the probabilities of a Categorical or Multinomial.)

    Counts that may exceed 46,340 (Poisson, Binomial(10**5, p)) are passed to f as floats if f multiplies or sums
    integers.

    Args:
        baseline: a number (traced or not), `leave_one_out`, a `MovingAverage`, or a function of the `n` values whose
            i-th output does not use the i-th value (see `rgrad.estimators.baselines`); or `optimal`, one constant for
            each parameter coordinate. With a control variate, the values are those of f - h.
        control_variate: `delta`, a pair `(h, E_q[h])`, or a function `(f, q) -> (h, E_q[h])`. See
            `rgrad.estimators.control_variates`. With `keyed=True`, h is a function of x only.

    Returns:
        Shape `(n,)`, per sample. The values are those of `f`, whatever the baseline. With a control variate they are
        not, but their mean is still an unbiased estimate. If the baseline is a function of the values, the terms depend
        on one another.

    Raises:
        ValueError: the baseline uses its own sample, or another sample that depends on it (`antithetic(q)`);
            `leave_one_out` or `optimal` with n = 1; `n < 1`; `q` has a batch shape; f returns a vector; or the
            derivative is taken with respect to a probability that is known to be 0 or 1.
        NotImplementedError: the derivative is taken with respect to a parameter on which the support of `q` depends.

    Example:
        >>> reinforce = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
        >>> loss = lambda theta: rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 10_000, reinforce)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 4
        4.1

    Source: Williams 1992, REINFORCE, https://doi.org/10.1007/BF00992696; Glynn 1990,
    https://doi.org/10.1145/84537.84552. Baselines: Greensmith, Bartlett and Baxter 2004,
    https://www.jmlr.org/papers/v5/greensmith04a.html. Control variates: Paisley, Blei and Jordan 2012,
    https://arxiv.org/abs/1206.6430.
    """
    baseline, control_variate = plain(baseline), plain(control_variate)
    if (together := dependent_draws(q)) is not None:
        pairs = together.pairs and baseline is not optimal
        check_leaves_out_dependent(baseline, n, together.prefix, pairs)
    x, eps, log_q = drawn_with_score(q, key, n)
    values, expectation = evaluate(of_counts(f, q, "score_function"), x, n, "score_function"), jnp.zeros(())
    if control_variate is not None:
        h, known = _pair(control_variate, f, q)
        # h has no randomness of its own
        values, expectation = values - evaluate(h, sample_of(q, x), n, "control_variate"), jnp.asarray(known)
        if expectation.shape != ():
            raise ValueError(
                f"score_function: the expectation of the control variate has shape {expectation.shape}; it must be one "
                "number, the mean of h over q"
            )
    if baseline is optimal:
        terms = surrogate(values, log_q) - given_back(values, q, eps)
    else:
        if callable(baseline) and together is not None and together.pairs:
            baseline = independent(baseline_values(baseline, values, pairs=True))
        terms = surrogate(values, log_q, baseline)
    return terms + expectation


def drawn_with_score(q: Distribution, key: Array, n: int) -> tuple[Sample, Sample, Array]:
    """`n` samples of `q`, the noise behind them, and `log q` of each, shape `(n,)`, up to a constant.

    The derivatives of `log q` are refused, or nan, as `score_function` says.
    """
    check_draw(q, n, "score_function")
    how = base_noise(q)
    eps = how.sample(key, (n,))
    x = nan_outside_support(q, jax.tree.map(lax.stop_gradient, how.push(eps)))
    log_q = score_density(how, eps)
    if how.source is q:  # the density is not one of this package's
        log_q = nan_if_not_finite(log_q, log_q, q)
    return x, eps, forbid_moving_support(refuse_never_drawn(log_q, q, "score_function"), q, "score_function")


def _pair(control_variate: Any, f: Objective, q: Any) -> tuple[Objective, ArrayLike]:
    """The pair `(h, E_q[h])`. If the control variate is a function `(f, q) -> (h, E_q[h])`, the function is called."""
    pair = control_variate
    if callable(control_variate) and control_variate is not optimal:
        pair = control_variate(f, q if control_variate is delta else base_of(q))
    if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[0])):
        raise TypeError(
            f"score_function: control_variate = {control_variate!r} is not a pair (h, expectation), nor a function (f, q) "
            "that returns one; write e.g. control_variate=rgrad.delta (optimal is a baseline: baseline=rgrad.optimal)"
        )
    return pair
