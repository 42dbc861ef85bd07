"""The style of all figures: sizes, fonts, and one colour and marker for each estimator."""

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import crc32

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 9.0  # inches. A README shows 900 pixels, so a font of 8.5 points appears as 8.5 points
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "figure.titlesize": 11,
}


class Style(NamedTuple):
    """The colour and the marker of an estimator, the same in every figure."""

    colour: str
    marker: str


STYLES = {
    "exact": Style("#000000", "."),
    "enumerated": Style("#000000", "o"),
    "reparameterized": Style("#0072b2", "o"),
    "reparameterized+antithetic": Style("#56b4e9", "v"),
    "reparameterized+stratified": Style("#7a9cc6", "<"),
    "reparameterized+quasi": Style("#1b3b6f", ">"),
    "sticking_the_landing": Style("#009e73", "D"),
    "doubly_reparameterized": Style("#cc79a7", "P"),
    "score_function": Style("#d55e00", "s"),
    "score_function+leave_one_out": Style("#e69f00", "^"),
    "score_function+moving_average": Style("#8c510a", "d"),
    "score_function+optimal": Style("#aa3377", "X"),
    "score_function+delta": Style("#ee8866", "P"),
    "score_function+antithetic": Style("#f4a582", "v"),
    "score_function+stratified": Style("#bf812d", "<"),
    "score_function+quasi": Style("#b2182b", ">"),
    "vimco": Style("#882255", "*"),
    "generalized": Style("#882255", "p"),
    "rejection": Style("#999933", "h"),
    "measure_valued": Style("#117733", "v"),
    "measure_valued+independent": Style("#44aa99", "<"),
    "arm": Style("#56b4e9", "<"),
    "disarm": Style("#332288", ">"),
    "rebar": Style("#777777", "p"),
    "rebar+trained": Style("#cc79a7", "*"),
    "gumbel_softmax": Style("#bbaa00", "d"),
    "straight_through": Style("#6f4e37", "h"),
    "reinmax": Style("#a6761d", "P"),
    "gumbel_rao": Style("#c51b7d", "X"),
    "go": Style("#66a61e", "D"),
    "unordered": Style("#7570b3", "s"),
    "unordered+6": Style("#3f3a8c", "D"),
    # The losses of NumPyro in `experiments.svi`.
    "Trace_ELBO": Style("#999999", "X"),
    "TraceGraph_ELBO": Style("#cc79a7", "D"),
    "TraceEnum_ELBO": Style("#009e73", "P"),
    "Trace_ELBO+marginal": Style("#0072b2", "v"),
    "TraceEnum_ELBO+marginal": Style("#56b4e9", "h"),
    # Those of `experiments.policy`. REINFORCE is the score function, and RLOO the same with leave-one-out.
    "reinforce": Style("#d55e00", "s"),
    "rloo": Style("#e69f00", "^"),
    "rloo, k1_loss": Style("#882255", "*"),
    "rloo, k2_loss": Style("#117733", "p"),
    "rloo, k3_loss": Style("#8c510a", "h"),
    "grpo": Style("#009e73", "D"),
    "grpo+token_mean": Style("#cc79a7", "v"),
    "ppo": Style("#56b4e9", "P"),
    "reward_to_go": Style("#0072b2", "o"),
    "learned_baseline": Style("#009e73", "D"),
    "rloo_to_go": Style("#cc79a7", "v"),
    # The programs of `experiments.benchmark`.
    "rgrad": Style("#0072b2", "o"),
    "numpy loop": Style("#d55e00", "s"),
    "numpy threads": Style("#009e73", "^"),
    "torch eager": Style("#cc79a7", "D"),
    "torch.func": Style("#e69f00", "v"),
    "torch.compile": Style("#56b4e9", "P"),
    "jax naive": Style("#000000", "X"),
    "jax streamed": Style("#999999", "d"),
    "C": Style("#8c510a", "h"),
}
SPARE = [
    Style(colour, marker) for marker in "8*Hd" for colour in ("#ff1493", "#2f4f4f", "#6a5acd", "#808000", "#b22222")
]


def style_of(name: str) -> Style:
    """The colour and marker of an estimator or a program.

    A name that is not in `STYLES`, such as the reader's own estimator, gets one of the spare styles. The choice depends
    only on the name.
    """
    return STYLES[name] if name in STYLES else SPARE[crc32(name.encode()) % len(SPARE)]


@contextmanager
def house_style() -> Iterator[None]:
    """Draws with the fonts of this project, as a context or a decorator."""
    with mpl.rc_context(STYLE):
        yield


def panels(rows: int, columns: int, height: float = 2.7) -> tuple[Figure, Any]:
    """A figure and its axes, shape `(rows, columns)`. It does not use pyplot, which would look for a display."""
    width = WIDTH if columns > 1 else 7.5
    figure = Figure(figsize=(width, 0.6 + height * rows + (1.2 if rows == columns == 1 else 0.0)), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def grid(count: int) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels, at most three in a row."""
    columns = min(3, count)
    figure, axes = panels(math.ceil(count / columns), columns)
    for axis in axes.ravel()[count:]:
        axis.set_axis_off()
    return figure, axes.ravel()[:count].tolist()


def legend_below(figure: Figure, entries: tuple[list[Any], list[str]], ncols: int = 3) -> None:
    """One legend for the whole figure, below the panels. The figure gets taller, so the panels keep their size."""
    handles, labels = entries
    rows = math.ceil(len(labels) / ncols)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)


def label_lines(axis: Any, ends: Iterable[tuple[float, float, str, str]]) -> None:
    """Writes the name of each line to the right of its last point.

    Args:
        axis: the panel. Its scales and limits are final.
        ends: for each line `(x, y, name, colour)`, with x and y of its last point.
    """
    low, high = axis.get_ylim()
    to = np.log if axis.get_yscale() == "log" else np.asarray
    ordered = sorted((float((to(y) - to(low)) / (to(high) - to(low))), name, colour) for _, y, name, colour in ends)
    gap = 0.18 / (axis.figure.get_figheight() * axis.get_position().height)  # one line of text
    places: list[float] = []
    for wanted, *_ in ordered:
        places.append(max(wanted, places[-1] + gap) if places else wanted)
    shift = sum(place - wanted for place, (wanted, *_) in zip(places, ordered, strict=True)) / max(1, len(places))
    for place, (_, name, colour) in zip(places, ordered, strict=True):
        axis.text(1.015, place - shift, name, transform=axis.transAxes, color=colour, va="center", ha="left")


def plain_log(axis: Any, which: str = "y") -> None:
    """Chooses the ticks of a logarithmic axis so that their labels do not overlap.

    An axis over 1.5 decades or more has labels only at powers of ten. A shorter axis has plain numbers.
    """
    side = axis.yaxis if which == "y" else axis.xaxis
    low, high = sorted(axis.get_ylim() if which == "y" else axis.get_xlim())
    decades = math.log10(high / low)
    if decades >= 1.5:
        side.set_major_locator(LogLocator(numticks=5 if which == "x" else 7))
        side.set_minor_formatter(NullFormatter())
        return
    first = math.floor(math.log10(low))
    for digits in (
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 4, 5, 6, 8),
        tuple(np.arange(1, 10, 0.5)),
        tuple(np.arange(1, 10, 0.1)),
    ):
        ticks = [d * 10.0**e for e in (first, first + 1, first + 2) for d in digits if low <= d * 10.0**e <= high]
        if len(ticks) >= 3:
            break
    side.set_major_locator(FixedLocator(ticks[:: max(1, len(ticks) // 4)]) if len(ticks) >= 3 else MaxNLocator(4))
    side.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    side.set_minor_locator(NullLocator())


def figure_files(figure: Figure) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`. Equal figures give equal bytes."""
    _show_dollar_signs(figure)
    files = {}
    with mpl.rc_context({"svg.hashsalt": "rgrad", "svg.fonttype": "path"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
            files[f"figure.{kind}"] = buffer.getvalue()
    return files


def _show_dollar_signs(figure: Figure) -> None:
    """A name with two dollar signs, e.g. of a problem, is not a formula. The labels of ticks are formulas."""
    sides = [side for axes in figure.axes for side in (axes.xaxis, axes.yaxis)]
    ticks = [tick for side in sides for tick in (*side.get_major_ticks(), *side.get_minor_ticks())]
    formulas = {id(text) for tick in ticks for text in (tick.label1, tick.label2)} | {id(s.offsetText) for s in sides}
    for text in figure.findobj(Text):
        if id(text) not in formulas:
            text.set_parse_math(False)
