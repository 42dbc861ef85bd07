"""The estimators: each is a function `(f, q, key, n, **options) -> terms`, in a short file of its own family."""

from rgrad.distributions.relaxations import OneHotCategorical
from rgrad.estimators.arm import arm, disarm
from rgrad.estimators.enumerated import enumerated
from rgrad.estimators.generalized import generalized
from rgrad.estimators.measure_valued import measure_valued
from rgrad.estimators.rebar import rebar, relax
from rgrad.estimators.rejection import rejection
from rgrad.estimators.relaxed import gumbel_softmax, straight_through
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.score_function import score_function
from rgrad.estimators.surrogate import surrogate

__all__ = [
    "OneHotCategorical",
    "arm",
    "disarm",
    "enumerated",
    "generalized",
    "gumbel_softmax",
    "measure_valued",
    "rebar",
    "rejection",
    "relax",
    "reparameterized",
    "score_function",
    "straight_through",
    "surrogate",
]
