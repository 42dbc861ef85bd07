"""Expectations that can be differentiated: `expect`, the ELBO, multi-sample bounds, and credit assignment."""

from rgrad.expectations.elbo import Entropy

__all__ = ["Entropy"]
