"""Stochastic gradient descent on an objective that takes a key."""

from rgrad.fitting.fit import NOTHING

__all__ = ["NOTHING"]
