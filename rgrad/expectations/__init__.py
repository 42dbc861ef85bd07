"""Expectations to differentiate: `expect`, the ELBO, bounds from several samples, and credit assignment."""

from rgrad.expectations.elbo import Entropy

__all__ = ["Entropy"]
