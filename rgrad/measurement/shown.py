"""`Moments` as rows and as text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import jax
import numpy as np

from rgrad.parameters import WHOLE
from rgrad.printing import SHOWN, as_table, is_traced, more


def rows_of_moments(moments: Any) -> Iterator[dict[str, Any]]:
    """One row for each element of a call, made on demand."""
    mean, variance = moments.interval(), moments.variance_interval()
    trees = [moments.mean, moments.standard_error, *mean, moments.variance, *variance, moments.nonfinite]
    columns = [jax.tree.leaves(tree) for tree in trees]
    names = (
        "mean",
        "standard_error",
        "mean_low",
        "mean_high",
        "variance",
        "variance_low",
        "variance_high",
        "nonfinite",
    )
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(moments.mean)):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or WHOLE
        for index in np.ndindex(np.shape(leaf)):
            place = f"[{', '.join(map(str, index))}]" if index else ""
            at = (np.asarray(column[i])[index].item() for column in columns)
            yield {"name": name + place, **dict(zip(names, at, strict=True))}


def moments_as_text(self: Any) -> str:
    """A table of the mean and the variance of each element."""
    size = sum(np.size(x) for x in jax.tree.leaves(self.mean))
    if is_traced(self) or np.ndim(self.count):
        kind = "traced" if is_traced(self) else f"of {np.shape(self.count)} settings"
        return f"Moments, {kind}, {size:,} numbers each for mean, variance, ..."
    shown = lambda value, low, high: f"{value:.4g} [{low:.3g}, {high:.3g}]"
    lines = [
        (
            row["name"], shown(row["mean"], row["mean_low"], row["mean_high"]),
            shown(row["variance"], row["variance_low"], row["variance_high"]),
        )
        for row in islice(rows_of_moments(self), SHOWN)
    ]  # fmt: skip
    bad = max((int(np.max(x)) for x in jax.tree.leaves(self.nonfinite) if np.size(x)), default=0)
    return "\n".join(
        [
            as_table(("", "mean", "variance"), lines),
            *more(size),
            f"per call, from {int(self.count):,} calls, with 95 % intervals"
            + (f"; {bad:,} calls were nan or infinite" if bad else ""),
        ]
    )
