"""Expectations to differentiate: `expect`, the ELBO, bounds from several samples, and credit assignment."""
