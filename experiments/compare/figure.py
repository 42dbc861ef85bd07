"""The picture of `experiments.compare`: the total variance against the cost, with lines of equal efficiency."""

from typing import Any

import numpy as np

from experiments.common.plotting import COLOURS, MARKERS, figure_files, panels


def draw_figure(comparison: Any, problem: str) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`. Crosses: biased. Hollow: bias cannot be told. At the lower edge: no variance at all."""
    totals = comparison.totals
    cost = "seconds" if comparison.cost == "time" else "operations"
    figure, ((axis,),) = panels(1, 1)
    figure.set_size_inches(9.5, 5.2)
    some = [t["variance"] for t in totals if t["variance"] and np.isfinite(t["variance"])]
    low, high = (min(some), max(some)) if some else (1e-3, 1.0)
    floor = low / (high / low) ** 0.25 / 4
    scale = 1e6 if cost == "seconds" else 1.0
    for i, total in enumerate(totals):
        if not np.isfinite(total["variance"]):
            axis.plot([], [], " ", label=f"{total['estimator']}: nan or infinite")
            continue
        biased = total["biased"]
        colour = COLOURS[i % len(COLOURS)]
        exact = total["variance"] == 0
        marker = "x" if biased else MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        note = "BIASED" if biased else "exact" if exact else "cannot tell whether biased" if biased is None else (
            f"{total['efficiency']:.2g}"
        )  # fmt: skip
        star = " (recommended)" if total["recommended"] else ""
        axis.plot(
            max(total[cost] * scale, 1e-3), floor if exact else total["variance"], marker, ms=10 if total["recommended"] else 8,
            mew=2, color=colour, mfc=colour if biased is False else "none", ls="", label=f"{total['estimator']}: {note}{star}",
        )  # fmt: skip
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="time of one gradient, microseconds" if cost == "seconds" else "operations of one gradient",
        ylabel="total variance of one gradient",
    )
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    left, right = left / 1.5, right * 1.5
    for level in np.geomspace(left * bottom, right * top, 9)[1:-1]:  # variance x cost
        axis.plot([left, right], [level / left, level / right], ":", color="grey", lw=0.7, zorder=0)
    axis.set(xlim=(left, right), ylim=(bottom, top))
    if any(t["variance"] == 0 for t in totals):
        axis.axhline(floor, color="grey", lw=0.7, zorder=0)
        axis.text(right, floor, "no variance ", ha="right", va="bottom", color="grey", fontsize=9)
    axis.grid(which="major", alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, title="efficiency, relative to the best")
    figure.suptitle(f"{problem}: which estimator? (dotted: equal variance x cost; lower left is better)", fontsize=11)
    return figure_files(figure)
