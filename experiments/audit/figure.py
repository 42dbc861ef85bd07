"""The figure of `experiments.audit`: the bias of each gradient against its noise."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from experiments.audit.study import BIASED, OK, Audited, noise_of, relative_to
from experiments.common.plotting import figure_files, house_style, panels, plain_log

STYLES = {BIASED: ("#d55e00", "X"), OK: ("#009e73", "o")}
UNKNOWN = ("#777777", "s")
OFFSETS = [(dx * d, dy * d) for d in (9, 16, 26) for dx, dy in ((1, 0), (-1, 0), (0.7, 0.8), (0.7, -0.8), (-0.7, 0.8),
           (-0.7, -0.8), (0, 1), (0, -1))]  # fmt: skip
"""The places of a label around its marker, in points, the best first. The ends of the bar come after the first eight."""


class AuditPoint(NamedTuple):
    """A marker."""

    label: str
    verdict: str
    noise: float
    """Relative to the derivative, as all numbers here."""
    bias: float
    low: float
    high: float


def points_of(found: list[Audited], own: bool) -> list[AuditPoint]:
    """A point for each row of the user's loss, or for the worst row of each loss of the gallery."""
    rows = [(row["name"], row) for one in found for row in one.audit.rows] if own else [
        (one.name, one.worst) for one in found if one.worst is not None
    ]  # fmt: skip
    points = []
    for label, row in rows:
        to = relative_to(row)
        low, high = sorted((row["low"] * to, row["high"] * to))
        point = AuditPoint(label, row["verdict"], noise_of(row) * abs(to), row["bias"] * to, low, high)
        if np.isfinite(point[2:]).all():
            points.append(point)
    return sorted(points, key=lambda p: (p.verdict == OK, -abs(p.bias)))  # the first ones get the best labels


@house_style()
def draw_figure(found: list[Audited], own: bool, tolerance: float) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`. Crosses: biased. Circles: ok. Squares: no verdict. Bars: intervals of the bias.

    A marker on the vertical line is a gradient without noise.
    """
    points = points_of(found, own)
    figure, ((axis,),) = panels(1, 1)
    figure.set_size_inches(9.0, 5.6)
    FigureCanvasAgg(figure)
    noisy = [p.noise for p in points if p.noise > 0] or [1.0]
    floor = min(noisy) / 4
    for p in points:
        colour, marker = STYLES.get(p.verdict, UNKNOWN)
        x = p.noise or floor
        axis.plot([x, x], [p.low, p.high], "-", lw=1.5, color=colour, alpha=0.6)
        axis.plot(x, p.bias, marker, color=colour, ms=8, mew=0.5, mec="white")
    least, most = min([-tolerance, *(p.low for p in points)]), max([tolerance, *(p.high for p in points)])
    room = 0.1 * (most - least)
    axis.set(xscale="log", xlim=(floor / 3, max(noisy) * 8), ylim=(least - room, most + room))
    axis.axhspan(-tolerance, tolerance, color=STYLES[OK][0], alpha=0.12, lw=0)
    axis.axhline(0, color="grey", lw=0.7)
    plain_log(axis, "x")
    axis.set(xlabel="noise: the standard deviation of one gradient, relative to the larger of gradient and truth")
    axis.set(ylabel="bias, relative to the larger of gradient and truth (negative: too small)")
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:+.0%}" if y else "0")
    if any(p.noise == 0 for p in points):
        axis.axvline(floor, color="grey", lw=0.7, zorder=0)
        axis.annotate("no noise", (floor, 1), (-4, -4), xycoords=("data", "axes fraction"), textcoords="offset points",
                      rotation=90, ha="right", va="top", color="grey", fontsize=8.5)  # fmt: skip
    axis.grid(alpha=0.3)
    axis.set_title(f"Crosses: biased. Circles: ok. Green band: a bias below {tolerance:.0%}.", fontsize=9)
    subject = f"Is the gradient of {found[0].name} right?" if own else "Which of these gradients are right?"
    figure.suptitle(subject if points else f"{subject} The audit: {found[0].audit.verdict}")
    _label(figure, axis, points, floor)
    return figure_files(figure)


def _label(figure: Any, axis: Any, points: list[AuditPoint], floor: float) -> None:
    """Writes each name next to its marker, where it covers nothing. A name for which there is no room is left out."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what follows depends on where the axes are
    renderer, unit = figure.canvas.get_renderer(), figure.dpi / 72
    inside = axis.get_window_extent(renderer)
    taken = []
    for p in points:
        x = p.noise or floor
        (left, low), (_, high), (_, middle) = (axis.transData.transform((x, y)) for y in (p.low, p.high, p.bias))
        taken += [Bbox([[left - 2, low], [left + 2, high]]), Bbox([[left, middle], [left, middle]]).padded(5 * unit)]
    for p in points:
        colour = STYLES.get(p.verdict, UNKNOWN)[0]
        beside = [(p.bias, *offset) for offset in OFFSETS]
        for y, dx, dy in (*beside[:8], (p.high, 0, 4), (p.low, 0, -4), *beside[8:]):
            line = {"arrowstyle": "-", "color": colour, "lw": 0.6} if np.hypot(dx, dy) > 12 else None
            text = axis.annotate(
                p.label, (p.noise or floor, y), (dx, dy), textcoords="offset points", color=colour, fontsize=8.5,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center", arrowprops=line,
            )  # fmt: skip
            box = _words(text, renderer)
            corners = ((box.x0, box.y0), (box.x1, box.y1))
            if all(inside.contains(*c) for c in corners) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _words(text: Any, renderer: Any) -> Bbox:
    """The box of an annotation without its line."""
    text.update_positions(renderer)
    return Text.get_window_extent(text, renderer).padded(1.0)
