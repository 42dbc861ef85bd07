"""The estimators: each is a function `(f, q, key, n, **options) -> terms`, in a short file of its own family."""

from rgrad.estimators.generalized import generalized
from rgrad.estimators.measure_valued import measure_valued
from rgrad.estimators.rejection import rejection
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.score_function import score_function, surrogate

__all__ = ["generalized", "measure_valued", "rejection", "reparameterized", "score_function", "surrogate"]
