"""Standard uniform and normal noise from a key, as good as that of `jax.random`, but faster (`rgrad.backend.noise`)."""

from rgrad.backend.noise import bits, fold_in, normal, uniform

__all__ = ["bits", "fold_in", "normal", "uniform"]
