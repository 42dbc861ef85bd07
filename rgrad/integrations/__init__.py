"""What the libraries of others need to use rgrad: a loss for NumPyro's SVI."""
