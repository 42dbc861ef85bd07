"""What a draw that is nan may come of: for what collects draws to say."""

import warnings
from typing import Any

import jax
import numpy as np

WHY_NAN = (
    "a draw is nan if a sample is outside of the support of q or its density is 0 or infinite by rounding, if a baseline "
    "uses its own value, if a transform is not elementwise, or if f itself is nan"
)
"""The causes of a draw that is nan, for the messages of what collects draws."""


def warn_of_nan(nonfinite: Any, count: Any, caller: str) -> None:
    """One warning if some of the draws were nan or infinite, and why that may be. Nothing if the counts are traced."""
    counts = jax.tree.leaves(nonfinite)
    if any(isinstance(x, jax.core.Tracer) for x in counts) or not (
        bad := max((int(np.max(x, initial=0)) for x in counts), default=0)
    ):
        return
    warnings.warn(f"{caller}: {bad:,} of {int(count):,} draws are nan or infinite; {WHY_NAN}", stacklevel=3)
