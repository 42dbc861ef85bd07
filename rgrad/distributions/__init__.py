"""What can be asked of a distribution `q`: draws, log density, support, quantiles, entropy, and the noise behind a sample."""
