"""How XLA is made right and fast: compiler options, XLA's flags, and the noise that all draws are made of."""
