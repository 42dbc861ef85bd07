"""What makes XLA right and fast: compiler options, XLA's flags, and the noise from which all draws are made."""
