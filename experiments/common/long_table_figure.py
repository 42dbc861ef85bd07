"""Figures of any slice of a table: lines with intervals, or heatmaps over two axes."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm

from experiments.common.errors import UsageError
from experiments.common.long_table import MEASURED
from experiments.common.plotting import (
    COLOURS,
    MARKERS,
    figure_files,
    grid,
    house_style,
    label_lines,
    legend_below,
    plain_log,
    style_of,
)

WIDE = 30  # an axis is logarithmic if the largest value is more than this many times the smallest
DIRECT = 3  # the largest number of lines that are labelled directly
Rows = list[dict[str, Any]]


@house_style()
def draw(
    rows: Rows, x: str, y: str, hue: str | None, title: str, scales: tuple[str, str] = ("auto", "auto")
) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: y over x, with a line for each value of `hue`."""
    check_axis(rows, "--x", x, scales[0], words=True)
    check_axis(rows, "--y", y, scales[1])
    one_each(rows, (x, *((hue,) if hue else ())), y)
    figure, (axis,) = grid(1)
    series = list(dict.fromkeys(row[hue] for row in rows)) if hue else [None]
    ends = []
    for i, value in enumerate(series):
        mine = sorted((r for r in rows if (not hue or r[hue] == value) and r[y] is not None), key=lambda r: r[x])
        colour, marker = _style(hue, value, i, len(series))
        at, of = [r[x] for r in mine], [r[y] for r in mine]
        label = None if value is None else _words(hue, value)
        axis.plot(at, of, marker=marker, ms=3, lw=1, color=colour, label=label)
        if label and mine:
            ends.append((at[-1], of[-1], label, colour))
        if (limits := _limits(mine, y)) is not None:
            axis.fill_between(at, *limits, color=colour, alpha=0.2, lw=0)
    axis.set(xlabel=x, ylabel=y)
    axis.set_title(title)
    axis.set_xscale(_scale([r[x] for r in rows], scales[0]))
    axis.set_yscale(_scale([r[y] for r in rows], scales[1]))
    axis.grid(which="major", alpha=0.3)
    if axis.get_yscale() == "log":
        plain_log(axis, "y")
    if ends and len(ends) <= DIRECT and np.isfinite([y for _, y, *_ in ends]).all():
        figure.set_figwidth(9.0)
        label_lines(axis, ends)
    elif hue:
        legend_below(figure, axis.get_legend_handles_labels(), ncols=2)
    return figure_files(figure)


def _words(hue: str | None, value: Any) -> str:
    return f"{hue} = {value:g}" if isinstance(value, float) else str(value)


def _style(hue: str | None, value: Any, i: int, count: int) -> tuple[Any, str]:
    """The style of an estimator, or one by position for the values of another column."""
    if hue == "estimator":
        return style_of(str(value))
    if count > len(COLOURS):
        return mpl.colormaps["viridis"](i / (count - 1)), MARKERS[i % len(MARKERS)]
    return COLOURS[i], MARKERS[i]


@house_style()
def draw_heat(
    rows: Rows, x: str, y: str, heat: str, hue: str | None, title: str, scales: tuple[str, str]
) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a heatmap over x and y for each value of `hue`, all with one colour scale."""
    check_axis(rows, "--x", x, scales[0], gaps=False)
    check_axis(rows, "--y", y, scales[1], gaps=False)
    check_axis(rows, "--heat", heat, "auto")
    one_each(rows, (x, y, *((hue,) if hue else ())), heat)
    series = list(dict.fromkeys(row[hue] for row in rows)) if hue else [None]
    figure, axes = grid(len(series))
    numbers = [r[heat] for r in rows if r[heat] is not None]
    log = _scale(numbers, "auto") == "log"
    norm = LogNorm(min(numbers), max(numbers)) if log else mpl.colors.Normalize(min(numbers), max(numbers))
    for axis, value in zip(axes, series, strict=True):
        mine = [r for r in rows if not hue or r[hue] == value]
        across, up = sorted({r[x] for r in mine}), sorted({r[y] for r in mine})
        field = np.full((len(up), len(across)), np.nan)
        for r in mine:
            field[up.index(r[y]), across.index(r[x])] = np.nan if r[heat] is None else r[heat]
        mesh = axis.pcolormesh(across, up, field, norm=norm, shading="nearest", cmap="viridis")
        axis.set(xlabel=x, ylabel=y, xscale=_scale(across, scales[0]), yscale=_scale(up, scales[1]))
        axis.set_title("" if value is None else _words(hue, value))
    figure.colorbar(mesh, ax=axes, label=heat)
    figure.suptitle(f"{heat}{', ' if title else ''}{title}")
    return figure_files(figure)


def check_axis(rows: Rows, flag: str, name: str, scale: str, *, words: bool = False, gaps: bool | None = None) -> None:
    """Raises UsageError if a column cannot be drawn along an axis with this scale, or as colours.

    Args:
        words: the axis may also show text, if all values are text.
        gaps: whether some values may be missing. Default: only if `words` is False.
    """
    values = [row[name] for row in rows]
    numbers = [value for value in values if isinstance(value, float)]
    texts = [value for value in values if isinstance(value, str)]
    if words and scale != "log" and len(texts) == len(values):
        return
    if texts:
        raise UsageError(f"{flag} {name}: the column holds text, e.g. {texts[0]!r}; give a column of numbers")
    if not numbers:
        raise UsageError(f"{flag} {name}: the column holds no number in these rows; give another column")
    if len(numbers) < len(values) and not (not words if gaps is None else gaps):
        raise UsageError(f"{flag} {name}: the column has empty cells in these rows; give another, or use --where")
    if scale == "log" and min(numbers) <= 0:
        raise UsageError(f"{flag} {name}: the smallest value is {min(numbers):g}, and a logarithmic scale needs values above 0; "
                         f"leave out {flag}-scale log")  # fmt: skip


def one_each(rows: Rows, names: tuple[str, ...], what: str) -> None:
    """Raises UsageError if several rows belong to one point of the figure. The message names the column that differs."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        other = first.setdefault(tuple(row[name] for name in names), row)
        differ = [name for name in row if name not in {*names, what, *MEASURED} and row[name] != other[name]]
        if other is not row:
            name = differ[0] if differ else what
            values = sorted({str(r.get(name)) for r in rows})
            raise UsageError(
                f"--where: there are several rows for {names[0]} = {row[names[0]]}, by {name} ({', '.join(values[:6])}"
                f"{', ...' if len(values) > 6 else ''}); choose one, e.g. --where {name}={values[0]}, or use --hue {name}"
            )


def _limits(rows: Rows, y: str) -> tuple[list[float], list[float]] | None:
    if y == "variance" and all(r.get("variance_low") is not None and r.get("variance_high") is not None for r in rows):
        return [r["variance_low"] for r in rows], [r["variance_high"] for r in rows]
    if y == "mean" and all(r.get("standard_error") is not None for r in rows):
        half = [1.96 * r["standard_error"] for r in rows]
        return [r[y] - h for r, h in zip(rows, half, strict=True)], [r[y] + h for r, h in zip(rows, half, strict=True)]
    return None


def _scale(values: list[Any], wanted: str) -> str:
    if wanted != "auto":
        return wanted
    numbers = [v for v in values if isinstance(v, float | int)]
    return "log" if numbers and min(numbers) > 0 and max(numbers) > WIDE * min(numbers) else "linear"
