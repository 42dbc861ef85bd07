"""Moments of many independent calls in constant memory, and exact values to compare them with."""

from rgrad.backend.compiling import options
from rgrad.measurement.moments import moments_of
from rgrad.measurement.streaming import power_sums, words

__all__ = ["moments_of", "options", "power_sums", "words"]
