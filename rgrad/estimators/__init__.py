"""The estimators: each is a function `(f, q, key, n, **options) -> terms`, in a short file of its own family."""

from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.score_function import score_function, surrogate

__all__ = ["reparameterized", "score_function", "surrogate"]
