"""One question, one package, one figure: `python -m experiments.<question>`."""

import rgrad  # noqa: F401  sets an XLA flag before JAX starts, in this process and in its children
