"""Standard uniform and normal noise from a key, faster than `jax.random` and as good. See `rgrad.backend.noise`."""

from rgrad.backend.noise import bits, fold_in, normal, uniform

__all__ = ["bits", "fold_in", "normal", "uniform"]
