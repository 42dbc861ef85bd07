# The public names, and the modules that define them. `__init__.py` imports each name on first use.

from . import noise
from .audits.audit import audit
from .audits.cuts import Cut
from .audits.result import Audit
from .autodiff import attach, attach_gradient
from .backend.compiler_check import CompilerCheck, check_compiler
from .backend.compiling import compiler_options
from .comparison.combination import combine
from .comparison.compare import compare
from .comparison.result import Comparison
from .distributions.dependent import antithetic, quasi, stratified
from .distributions.detach import detach
from .distributions.draws import jax_random
from .distributions.location_scale import location_scale
from .distributions.log_density import log_prob
from .distributions.others import distribution
from .distributions.relaxations import OneHotCategorical
from .errors import NotApplicable
from .estimators.arm import arm, disarm
from .estimators.baselines import MovingAverage, leave_one_out, leave_pair_out, moving_average
from .estimators.control_variates import delta, optimal
from .estimators.enumerated import enumerated
from .estimators.generalized import generalized
from .estimators.go import go
from .estimators.gumbel_rao import gumbel_rao
from .estimators.measure_valued import measure_valued
from .estimators.rebar import rebar, relax
from .estimators.reinmax import reinmax
from .estimators.rejection import rejection
from .estimators.relaxed import gumbel_softmax, straight_through
from .estimators.reparameterized import reparameterized
from .estimators.score_function import score_function
from .estimators.surrogate import surrogate
from .estimators.table import ESTIMATORS, EstimatorRow
from .estimators.unordered import unordered
from .expectations.bound_gradients import doubly_reparameterized, sticking_the_landing, vimco
from .expectations.bounds import iwae, renyi
from .expectations.credit import credit
from .expectations.draw import Draw
from .expectations.elbo import elbo
from .expectations.expectation import expect
from .expectations.program import ProgramTrace, expect_program, trace_program
from .fitting.fit import Fit, fit, initial_fit
from .integrations.measuring import measure_svi
from .integrations.svi import SVILoss
from .measurement.exact import ExactMoments, exact_moments
from .measurement.moments import Moments, measure
from .measurement.total import Noise, TotalNoise, measure_total
from .policies.advantages import group_advantages
from .policies.kl import kl_penalty
from .policies.returns import discounted_returns, generalized_advantages
from .protocols import Distribution, Estimator, Problem
from .sweeps.sweep import Sweep, sweep
from .tracing.independence import independent

__version__: str

__all__ = [
    # Differentiate an expectation.
    "expect",
    # The estimators; `surrogate` is the score function for samples that you have drawn yourself.
    "reparameterized",
    "score_function",
    "surrogate",
    "generalized",
    "rejection",
    "measure_valued",
    # Estimators for discrete distributions: exact, unbiased, and (the last four) biased.
    "enumerated",
    "unordered",
    "go",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "gumbel_softmax",
    "straight_through",
    "reinmax",
    "gumbel_rao",
    "OneHotCategorical",
    # Differentiate a program with several draws, each with its own estimator.
    "expect_program",
    "trace_program",
    "Draw",
    "ProgramTrace",
    # NumPyro's SVI, with an estimator at each latent site.
    "SVILoss",
    "measure_svi",
    # The evidence lower bound, and a family of distributions for it: z = mu + C eps.
    "elbo",
    "location_scale",
    # Bounds from K samples, and their gradient rules.
    "iwae",
    "renyi",
    "vimco",
    "sticking_the_landing",
    "doubly_reparameterized",
    # Several variables and costs: each variable is credited only with the costs that it can influence.
    "credit",
    # Policy gradients: advantages within groups (RLOO, GRPO), returns, and penalties for leaving a reference.
    "group_advantages",
    "discounted_returns",
    "generalized_advantages",
    "kl_penalty",
    # A distribution made of two functions. Those of TFP, distrax, distreqx and FlowJAX are accepted as they are.
    "distribution",
    # The log density of a sample, with the correct derivative everywhere; a distribution with constant parameters.
    "log_prob",
    "detach",
    # The table of all estimators and their properties.
    "ESTIMATORS",
    "EstimatorRow",
    # Baselines and control variates.
    "leave_one_out",
    "leave_pair_out",
    "moving_average",
    "MovingAverage",
    "independent",
    "optimal",
    "delta",
    # Draws that are not independent, and draws from jax.random.
    "antithetic",
    "stratified",
    "quasi",
    "jax_random",
    # A module with standard normal and uniform noise.
    "noise",
    # Measure the mean and variance of an estimator ...
    "measure",
    "measure_total",
    "Noise",
    "TotalNoise",
    "Moments",
    # ... over a grid of settings.
    "sweep",
    "Sweep",
    # Compare estimators for cost and bias, and combine several into one.
    "compare",
    "Comparison",
    "combine",
    # Check whether the gradient of your own loss is right, and find where it is cut.
    "audit",
    "Audit",
    "Cut",
    # The exact values to compare with.
    "exact_moments",
    "ExactMoments",
    # Check whether JAX's compiler is correct on this machine, and make it fast in your own programs.
    "check_compiler",
    "CompilerCheck",
    "compiler_options",
    # Minimise an expectation.
    "fit",
    "initial_fit",
    "Fit",
    # Raised by an estimator that cannot be used for a distribution, an objective or a number of samples.
    "NotApplicable",
    # Write your own estimator.
    "attach",
    "attach_gradient",
    # What a distribution, an estimator and a problem must provide.
    "Distribution",
    "Estimator",
    "Problem",
]
