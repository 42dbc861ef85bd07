"""The figure of `experiments.compare`: the total variance against the cost, with lines of equal efficiency."""

from typing import Any

import numpy as np

from experiments.common.plotting import figure_files, house_style, panels, plain_log, style_of


@house_style()
def draw_figure(comparison: Any, problem: str) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`.

    A crossed marker is a biased estimator. A hollow marker without a cross is an estimator whose bias is not known. A
    marker on the line near the bottom is an estimator without variance.
    """
    totals = comparison.totals
    cost = "seconds" if comparison.cost == "time" else "operations"
    figure, ((axis,),) = panels(1, 1)
    figure.set_size_inches(9.0, 4.6)
    some = [t["variance"] for t in totals if t["variance"] and np.isfinite(t["variance"])]
    low, high = (min(some), max(some)) if some else (1e-3, 1.0)
    floor = low / (high / low) ** 0.25 / 4
    scale = 1e6 if cost == "seconds" else 1.0
    for total in totals:
        if not np.isfinite(total["variance"]):
            axis.plot([], [], " ", label=f"{total['estimator']}: nan or infinite")
            continue
        biased, exact = total["biased"], total["variance"] == 0
        colour, marker = style_of(total["estimator"])
        note = "BIASED" if biased else "exact" if exact else "bias not known" if biased is None else (
            f"{total['efficiency']:.2g}"
        )  # fmt: skip
        star = " (recommended)" if total["recommended"] else ""
        x, y = max(total[cost] * scale, 1e-3), floor if exact else total["variance"]
        axis.plot(
            x, y, marker, ms=11 if total["recommended"] else 8, mew=1.5, color=colour, ls="", alpha=0.85,
            mfc=colour if biased is False else "none", label=f"{total['estimator']}: {note}{star}",
        )  # fmt: skip
        if biased:
            axis.plot(x, y, "x", ms=11, mew=1.5, color=colour)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="time of one gradient, microseconds" if cost == "seconds" else "operations of one gradient",
        ylabel="total variance of one gradient",
    )
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    left, right, bottom, top = left / 1.5, right * 1.5, bottom / 1.3, top * 1.3
    for level in np.geomspace(left * bottom, right * top, 9)[1:-1]:  # variance x cost
        axis.plot([left, right], [level / left, level / right], ":", color="grey", lw=0.7, zorder=0)
    axis.set(xlim=(left, right), ylim=(bottom, top))
    plain_log(axis, "x")
    plain_log(axis, "y")
    if any(t["variance"] == 0 for t in totals):
        axis.axhline(floor, color="grey", lw=0.7, zorder=0)
        axis.text(right, floor, "no variance ", ha="right", va="bottom", color="grey")
    axis.grid(which="major", alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, title="efficiency, relative to the best", title_fontsize=9)
    axis.set_title("Lower left is better. Dotted: equal variance x cost. Crossed out: biased.", fontsize=9)
    figure.suptitle(f"Which estimator is the most efficient? Problem: {problem}")
    return figure_files(figure)
