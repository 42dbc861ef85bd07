"""Stochastic gradient descent on a loss that takes a PRNG key."""

from rgrad.fitting.fit import NOTHING

__all__ = ["NOTHING"]
