"""The picture of `experiments.benchmark`: how fast each contender is beside ours, and what the cost grows with."""

from typing import Any

from experiments.benchmark.rivals import CONTENDERS
from experiments.common.plotting import COLOURS as OKABE
from experiments.common.plotting import MARKERS, figure_files, grid

PANELS = ("draws", "fit", "sweep", "growth", "dimension", "cold")
COLOURS = (*OKABE, "#999999", "#8c510a")
ORDER = tuple(CONTENDERS)


def draw_figure(rows: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`, a panel for each section with a picture."""
    sections = [name for name in PANELS if any(r["section"] == name for r in rows)]
    figure, axes = grid(max(1, len(sections)))
    drawing = {"draws": _speeds, "dimension": _speeds, "fit": _bars, "sweep": _bars, "cold": _bars, "growth": _growth}
    for axis, section in zip(axes, sections, strict=False):
        drawing[section](axis, [r for r in rows if r["section"] == section], section)
        axis.grid(which="major", alpha=0.3)
    if not sections:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "precision has no picture: see the table", ha="center")
    if "draws" in sections:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    device = "" if machine["device"] in ("cpu", machine["cpu"]) else f" and {machine['device']}"
    figure.suptitle(f"Speed, side by side, on {machine['cores']} cores of {machine['cpu']}{device}", fontsize=11)
    return figure_files(figure)


def _speeds(axis: Any, rows: list[dict[str, Any]], section: str) -> None:
    """Each contender's speed in units of ours in the same round."""
    for name in dict.fromkeys(r["contender"] for r in rows):
        i = ORDER.index(name)
        mine = sorted((r for r in rows if r["contender"] == name), key=lambda r: r["n"])
        speed = [1 / r["times"] for r in mine]
        spread = [
            [1 / r["times"] - 1 / r["times_high"] for r in mine],
            [1 / r["times_low"] - 1 / r["times"] for r in mine],
        ]
        axis.errorbar(
            [r["n"] for r in mine], speed, spread, fmt=MARKERS[i % len(MARKERS)] + "-", ms=5,
            lw=2.5 if i == 0 else 1, capsize=3, color=COLOURS[i], label=name,
        )  # fmt: skip
    what = "N, draws of a gradient" if section == "draws" else "D, dimensions"
    axis.set(xscale="log", yscale="log", xlabel=what, ylabel="speed, rgrad = 1", title=f"{section}: higher is faster")


def _bars(axis: Any, rows: list[dict[str, Any]], section: str) -> None:
    rows = rows[::-1]
    sizes = [r["times"] if section == "cold" else 1 / r["times"] for r in rows]
    axis.barh(
        [r["contender"] for r in rows], sizes, color=[COLOURS[0] if r["contender"] == "rgrad" else "grey" for r in rows]
    )
    for i, size in enumerate(sizes):
        axis.text(size, i, f" {size:.2g}", va="center")
    axis.set_xlim(0, 1.25 * max(sizes))
    titles = {
        "fit": ("speed, rgrad = 1", "fits: longer is faster"),
        "sweep": ("speed, rgrad = 1", "a sweep: longer is faster"),
        "cold": ("time, import jax = 1", "a cold start: shorter is faster"),
    }
    axis.set(xlabel=titles[section][0], title=titles[section][1])


def _growth(axis: Any, rows: list[dict[str, Any]], section: str) -> None:
    rows = sorted(rows, key=lambda r: r["n"])
    axis.plot([r["n"] for r in rows], [r["times"] for r in rows], "o-", color=COLOURS[0])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="draws",
        ylabel="time of a draw, that of the most = 1",
        title="growth: memory at each point",
    )
    axis.set_ylim(0.5 * min(r["times"] for r in rows), 2.5 * max(r["times"] for r in rows))
    axis.margins(x=0.15)
    for r in rows:
        axis.annotate(
            f"+{r['megabytes']:.1f} MB",
            (r["n"], r["times"]),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
