"""Standard uniform and normal noise from a key, as good as that of `jax.random`, but faster (`rgrad.backend.noise`).

Example:
    >>> bool((rgrad.noise.bits(key, (3,)) == jax.random.bits(key, (3,))).all())
    True
    >>> rgrad.noise.normal(key, (3,)).shape
    (3,)
"""

from rgrad.backend.noise import bits, fold_in, normal, split, uniform

__all__ = ["bits", "fold_in", "normal", "split", "uniform"]
