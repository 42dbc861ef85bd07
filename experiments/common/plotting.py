"""Figures, as bytes, in one style."""

import io
import math
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def panels(rows: int, columns: int) -> tuple[Figure, Any]:
    """A figure and its axes, shape (rows, columns); made without pyplot, which would look for a display."""
    figure = Figure(figsize=(max(6.0, 4.6 * columns), max(4.2, 3.2 * rows)), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def grid(count: int) -> tuple[Figure, list[Any]]:
    """A figure of so many panels, at most three in a row."""
    columns = min(3, count)
    figure, axes = panels(math.ceil(count / columns), columns)
    for axis in axes.ravel()[count:]:
        axis.set_axis_off()
    return figure, axes.ravel()[:count].tolist()


def figure_files(figure: Figure) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`, the same bytes for the same figure."""
    files = {}
    with mpl.rc_context({"svg.hashsalt": "rgrad", "svg.fonttype": "path"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            files[f"figure.{kind}"] = buffer.getvalue()
    return files
