"""rgrad: differentiate an expectation.

An estimator is a function `(f, q, key, n) -> terms`. The mean of the terms estimates `E_q[f(x)]`, and the gradient of
the mean is the gradient estimate. Everything else is `jax.grad`, `jax.vmap`, `jax.jit`.

Every public name has an example in its docstring. The examples assume:

    >>> from functools import partial
    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, rgrad
    >>> key = jax.random.key(0)
"""

import difflib
from typing import Any

import lazy_loader

from rgrad.backend import xla_flags  # sets an XLA flag, before JAX starts

__version__ = "0.1.0"

# The public names are listed in `__init__.pyi`. Each is imported on first use, because NumPyro takes as long to import
# as JAX does.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    xla_flags.warn_if_wrong()
    try:
        return _load(name)
    except AttributeError:
        if name in __all__:
            raise
    close = difflib.get_close_matches(name, __all__, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module 'rgrad' has no attribute {name!r}{hint}", name=name)
