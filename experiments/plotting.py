"""Figures, as bytes, in one style."""

import io
import math
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def grid(panels: int) -> tuple[Figure, list[Any]]:
    """A figure of so many panels, at most three in a row; made without pyplot, which would look for a display."""
    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(max(6.0, 4.6 * columns), 4.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes[:panels]


def figure_files(figure: Figure) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`, the same bytes for the same figure."""
    files = {}
    with mpl.rc_context({"svg.hashsalt": "rgrad", "svg.fonttype": "path"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            files[f"figure.{kind}"] = buffer.getvalue()
    return files
