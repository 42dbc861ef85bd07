"""Integrations with other libraries: a loss for NumPyro's SVI."""
