"""The experiments. Each package answers one question: `python -m experiments.NAME`."""

import rgrad  # noqa: F401  sets an XLA flag before JAX starts, in this process and in its children
