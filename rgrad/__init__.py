"""rgrad: differentiate an expectation.

An estimator is a function `(f, q, key, n) -> terms`; the mean of the terms estimates `E_q[f(x)]`, and its gradient is
the gradient estimate. Everything else is `jax.grad`, `jax.vmap`, `jax.jit`.
"""

import lazy_loader

# The public names are in `__init__.pyi`. Each is imported when it is first used, because NumPyro takes as long to import as
# jax does.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
