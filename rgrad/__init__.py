"""rgrad: differentiate an expectation.

An estimator is a function `(f, q, key, n) -> terms`; the mean of the terms estimates `E_q[f(x)]`, and its gradient is
the gradient estimate. Everything else is `jax.grad`, `jax.vmap`, `jax.jit`.
"""

from rgrad.attach import attach, attach_gradient
from rgrad.baselines import MovingAverage, leave_one_out, leave_pair_out, moving_average
from rgrad.bounds import doubly_reparameterized, iwae, sticking_the_landing, vimco
from rgrad.combine import combine
from rgrad.compare import compare
from rgrad.comparison import Comparison
from rgrad.control_variates import delta, optimal
from rgrad.credit import credit
from rgrad.dependent import antithetic, quasi, stratified
from rgrad.detach import detach
from rgrad.draws import jax_random
from rgrad.elbo import elbo
from rgrad.estimators import (
    OneHotCategorical,
    arm,
    disarm,
    enumerated,
    generalized,
    gumbel_softmax,
    measure_valued,
    rebar,
    rejection,
    relax,
    reparameterized,
    score_function,
    straight_through,
    surrogate,
)
from rgrad.exact import ExactMoments, exact_moments
from rgrad.expectation import expect
from rgrad.fit import Fit, fit, initial_fit
from rgrad.location_scale import location_scale
from rgrad.moments import Moments, measure
from rgrad.protocols import Distribution, Estimator, Problem
from rgrad.sweep import Sweep, sweep

__all__ = [
    # differentiate an expectation
    "expect",
    # how: the estimators, and the score function for samples that come from elsewhere
    "reparameterized",
    "score_function",
    "surrogate",
    "generalized",
    "rejection",
    "measure_valued",
    # discrete distributions: exact, unbiased, and (the last two) biased
    "enumerated",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "gumbel_softmax",
    "straight_through",
    "OneHotCategorical",
    # the evidence lower bound, and a family for it: z = mu + C eps
    "elbo",
    "location_scale",
    # bounds from K samples, and the gradient rules that are theirs
    "iwae",
    "vimco",
    "sticking_the_landing",
    "doubly_reparameterized",
    # several variables and costs: each variable is paid only what it can have caused
    "credit",
    # with constant parameters (sticking the landing)
    "detach",
    # with which baseline or control variate
    "leave_one_out",
    "leave_pair_out",
    "moving_average",
    "MovingAverage",
    "optimal",
    "delta",
    # with which draws
    "antithetic",
    "stratified",
    "quasi",
    "jax_random",
    # measure
    "measure",
    "Moments",
    # ... over a grid of settings
    "sweep",
    "Sweep",
    # which estimator is best for its cost, and is one wrong? Several as one
    "compare",
    "Comparison",
    "combine",
    # the truth beside it
    "exact_moments",
    "ExactMoments",
    # minimise
    "fit",
    "initial_fit",
    "Fit",
    # to write an estimator of one's own
    "attach",
    "attach_gradient",
    # what a distribution, an estimator and a problem must promise
    "Distribution",
    "Estimator",
    "Problem",
]
