"""One question, one module, one figure: `python -m experiments.<question>`."""

import rgrad  # noqa: F401  sets a flag of XLA's before JAX starts, here and in the processes that are started from here
