"""The figure of `experiments.benchmark`: the time of each contender relative to ours, and how the cost grows.

Lower or further left is faster in every panel.
"""

from typing import Any

from experiments.common.plotting import figure_files, house_style, legend_below, panels, plain_log, style_of

PANELS = (
    "draws",
    "steps",
    "measuring",
    "peers",
    "dimension",
    "fit",
    "sweep",
    "svi",
    "calls",
    "compile",
    "growth",
    "cold",
)
SHOWN = 4  # panels; the tables have all sections
TITLES = {
    "draws": "one gradient of n samples",
    "dimension": "one gradient in D dimensions",
    "fit": "fits",
    "sweep": "a sweep",
    "svi": "NumPyro's SVI",
    "steps": "an optimiser step",
    "peers": "other libraries",
    "calls": "small calls",
    "compile": "compilation of a gradient",
    "measuring": "measure and measure_total",
    "growth": "rgrad, 1,000 samples per gradient",
    "cold": "a cold start",
}


@house_style()
def draw_figure(rows: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a panel for each of the first four sections of `PANELS` that were run."""
    sections = [name for name in PANELS if any(r["section"] == name for r in rows)][:SHOWN]
    columns = min(2, max(1, len(sections)))
    figure, grid = panels(max(1, -(-len(sections) // 2)), columns, height=2.2)
    axes = grid.ravel()
    drawing = {
        "draws": _lines,
        "dimension": _lines,
        "fit": _dots,
        "sweep": _dots,
        "svi": _dots,
        "steps": _dots,
        "peers": _dots,
        "calls": _dots,
        "compile": _dots,
        "measuring": _dots,
        "cold": _dots,
        "growth": _growth,
    }
    for axis, section in zip(axes, sections, strict=False):
        drawing[section](axis, [r for r in rows if r["section"] == section], section)
        axis.set_title(TITLES[section])
        axis.grid(which="major", alpha=0.3)
    for axis in axes[len(sections) :]:
        axis.set_axis_off()
    if not sections:
        axes[0].text(0.5, 0.5, "The section precision has no figure. See the table.", ha="center")
    lines: dict[str, Any] = {}
    for axis, section in zip(axes, sections, strict=False):
        if drawing[section] is _lines:
            handles, labels = axis.get_legend_handles_labels()
            lines |= dict(zip(labels, handles, strict=True))
    if lines:
        legend_below(figure, (list(lines.values()), list(lines)), 5)
    device = "" if machine["device"] in ("cpu", machine["cpu"]) else f" and {machine['device']}"
    figure.suptitle(f"How fast is it? Lower or further left is faster. {machine['cores']} cores of {machine['cpu']}{device}",
                    fontsize=10)  # fmt: skip
    return figure_files(figure)


def _lines(axis: Any, rows: list[dict[str, Any]], section: str) -> None:
    """The time of each contender relative to ours in the same round."""
    for name in dict.fromkeys(r["contender"] for r in rows):
        mine = sorted((r for r in rows if r["contender"] == name), key=lambda r: r["n"])
        relative = [r["times"] for r in mine]
        spread = [[r["times"] - r["times_low"] for r in mine], [r["times_high"] - r["times"] for r in mine]]
        colour, marker = style_of(name)
        axis.errorbar([r["n"] for r in mine], relative, spread, fmt=marker + "-", ms=5, capsize=3, color=colour, label=name,
                      lw=2.5 if name == "rgrad" else 1)  # fmt: skip
    what = "n, samples in one gradient" if section == "draws" else "D, dimensions"
    axis.set(xscale="log", yscale="log", xlabel=what, ylabel="time, rgrad = 1")
    plain_log(axis, "x")


def _dots(axis: Any, rows: list[dict[str, Any]], section: str) -> None:
    rows = rows[::-1]
    axis.set(xscale="log", xlabel="time, import jax = 1" if section == "cold" else "time, rgrad = 1")
    for i, r in enumerate(rows):
        ours = r["contender"] == "rgrad"
        axis.plot(r["times"], i, "o", ms=7, color=style_of("rgrad").colour if ours else "grey")
        axis.annotate(f"{r['times']:,.2g}" if r["times"] < 100 else f"{r['times']:,.0f}", (r["times"], i), (7, 0),
                      textcoords="offset points", va="center")  # fmt: skip
    axis.axvline(1, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), [r["contender"] for r in rows])
    low, high = min(1.0, *(r["times"] for r in rows)), max(1.0, *(r["times"] for r in rows))
    axis.set(xlim=(low / 1.6, high * (high / low) ** 0.25 * 1.6), ylim=(-0.6, len(rows) - 0.4))
    plain_log(axis, "x")


def _growth(axis: Any, rows: list[dict[str, Any]], section: str) -> None:
    """The time of a draw, with the growth of peak memory beside each point."""
    rows = sorted(rows, key=lambda r: r["n"])
    colour, marker = style_of("rgrad")
    axis.plot([r["n"] for r in rows], [r["times"] for r in rows], marker + "-", color=colour)
    axis.set(xscale="log", yscale="log", xlabel="draws (labels: growth of memory)", ylabel="time of a draw, last = 1")
    axis.set_ylim(0.7 * min(r["times"] for r in rows), 2.0 * max(r["times"] for r in rows))
    axis.margins(x=0.28)
    for r in rows:
        label = f"+{r['megabytes']:.2g} MB"
        axis.annotate(label, (r["n"], r["times"]), (3, 6), textcoords="offset points", ha="left")
    plain_log(axis, "x")
    plain_log(axis, "y")
