# The public names, and where each is; `__init__.py` imports one when it is first used.

from . import noise
from .attach import attach, attach_gradient
from .baselines import MovingAverage, leave_one_out, leave_pair_out, moving_average
from .bounds import doubly_reparameterized, iwae, sticking_the_landing, vimco
from .check_compiler import CompilerCheck, check_compiler
from .combine import combine
from .compare import compare
from .comparison import Comparison
from .control_variates import delta, optimal
from .credit import credit
from .dependent import antithetic, quasi, stratified
from .detach import detach
from .draws import jax_random
from .elbo import elbo
from .estimators import (
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
from .exact import ExactMoments, exact_moments
from .expectation import expect
from .fit import Fit, fit, initial_fit
from .independence import independent
from .location_scale import location_scale
from .log_density import log_prob
from .moments import Moments, measure
from .protocols import Distribution, Estimator, Problem
from .sweep import Sweep, sweep

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
    # the log density of a sample, with the right derivative everywhere; and with constant parameters (sticking the landing)
    "log_prob",
    "detach",
    # with which baseline or control variate
    "leave_one_out",
    "leave_pair_out",
    "moving_average",
    "MovingAverage",
    "independent",
    "optimal",
    "delta",
    # with which draws
    "antithetic",
    "stratified",
    "quasi",
    "jax_random",
    # a module: the normals and uniforms themselves
    "noise",
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
    # is JAX's compiler right on this machine?
    "check_compiler",
    "CompilerCheck",
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
