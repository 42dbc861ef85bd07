"""The warning about draws that are nan or infinite, and its list of possible causes."""

import warnings
from typing import Any

import jax
import numpy as np

WHY_NAN = (
    "a draw is nan if a sample is outside of the support of q, if its density rounds to 0 or infinity, if a baseline "
    "uses its own value, if a transform is not elementwise, if a scale_tril is not lower triangular, or if f itself is nan"
)
"""The possible causes of a draw that is nan, for messages."""


def warn_of_nan(nonfinite: Any, count: Any, caller: str) -> None:
    """Warns, with the possible causes, if some draws are nan or infinite. Does nothing if the counts are traced."""
    counts = jax.tree.leaves(nonfinite)
    if any(isinstance(x, jax.core.Tracer) for x in counts) or not (
        bad := max((int(np.max(x, initial=0)) for x in counts), default=0)
    ):
        return
    warnings.warn(f"{caller}: {bad:,} of {int(count):,} draws are nan or infinite; {WHY_NAN}", stacklevel=3)
