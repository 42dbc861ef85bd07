# The public names, and where each is; `__init__.py` imports one when it is first used.

from . import noise
from .autodiff import attach, attach_gradient
from .backend.compiler_check import CompilerCheck, check_compiler
from .comparison.combination import combine
from .comparison.compare import compare
from .comparison.result import Comparison
from .distributions.dependent import antithetic, quasi, stratified
from .distributions.detach import detach
from .distributions.draws import jax_random
from .distributions.location_scale import location_scale
from .distributions.log_density import log_prob
from .distributions.relaxations import OneHotCategorical
from .errors import NotApplicable
from .estimators.arm import arm, disarm
from .estimators.baselines import MovingAverage, leave_one_out, leave_pair_out, moving_average
from .estimators.control_variates import delta, optimal
from .estimators.enumerated import enumerated
from .estimators.generalized import generalized
from .estimators.measure_valued import measure_valued
from .estimators.rebar import rebar, relax
from .estimators.rejection import rejection
from .estimators.relaxed import gumbel_softmax, straight_through
from .estimators.reparameterized import reparameterized
from .estimators.score_function import score_function
from .estimators.surrogate import surrogate
from .estimators.table import ESTIMATORS, EstimatorRow
from .expectations.bounds import doubly_reparameterized, iwae, sticking_the_landing, vimco
from .expectations.credit import credit
from .expectations.elbo import elbo
from .expectations.expectation import expect
from .fitting.fit import Fit, fit, initial_fit
from .measurement.exact import ExactMoments, exact_moments
from .measurement.moments import Moments, measure
from .protocols import Distribution, Estimator, Problem
from .sweeps.sweep import Sweep, sweep
from .tracing.independence import independent

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
    # all of them in one table, with what is known of each
    "ESTIMATORS",
    "EstimatorRow",
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
    # what an estimator raises that cannot be used for a distribution, an objective or a number of samples
    "NotApplicable",
    # to write an estimator of one's own
    "attach",
    "attach_gradient",
    # what a distribution, an estimator and a problem must promise
    "Distribution",
    "Estimator",
    "Problem",
]
