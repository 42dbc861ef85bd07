"""The figure of `experiments.variance`: log-log variance against n, with intervals and the exact lines."""

from typing import Any

from experiments.common.plotting import figure_files, grid, house_style, label_lines, legend_below, plain_log, style_of

MOST = 6  # panels
DIRECT = 4  # the largest number of lines that are labelled directly, in a figure of one panel
ROUNDING = 1e-13  # relative to the squared mean: a smaller variance is rounding in 32 bits


@house_style()
def draw_figure(rows: list[dict[str, Any]], problem: str) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a panel for each parameter coordinate, at most `MOST`."""
    parameters = list(dict.fromkeys(row["parameter"] for row in rows))
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    shown = parameters[:MOST]
    figure, axes = grid(len(shown))
    for axis, parameter in zip(axes, shown, strict=True):
        for estimator in estimators:
            _points(axis, estimator, [r for r in rows if (r["estimator"], r["parameter"]) == (estimator, parameter)])
        shows = any(_varies(r) for r in rows if r["parameter"] == parameter)
        axis.set(xscale="log", yscale="log" if shows else "linear", xlabel="n, samples in one gradient estimate")
        axis.set_title(f"derivative with respect to {parameter}")
        axis.set_ylabel("variance of the estimate")
        plain_log(axis, "x")
        axis.grid(which="major", alpha=0.3)
    exact = any(row["exact_variance"] for row in rows)
    handles, labels = axes[0].get_legend_handles_labels()
    lines = [r for r in rows if r["n"] == max(r["n"] for r in rows)]
    if len(axes) == 1 and len(estimators) <= DIRECT and all(_varies(r) for r in lines):
        label_lines(axes[0], [(r["n"], r["variance"], r["estimator"], style_of(r["estimator"]).colour) for r in lines])
        figure.set_figwidth(9.0)
        key = "points: measured, with 95 % intervals" + ("; lines: exact" if exact else "")
        axes[0].set_title(f"derivative with respect to {shown[0]} ({key})")
    else:
        if exact:
            handles.append(axes[0].plot([], [], "-", color="grey", lw=1)[0])
            labels.append("exact")
        legend_below(figure, (handles, labels), 3 if len(axes) > 1 else 2)
    more = f" (the first {MOST} of {len(parameters)} coordinates)" if len(parameters) > MOST else ""
    figure.suptitle(f"How noisy is the gradient? Problem: {problem}{more}")
    return figure_files(figure)


def _points(axis: Any, estimator: str, rows: list[dict[str, Any]]) -> None:
    """The measured variances of one estimator with intervals, and a line through the exact ones."""
    mine = sorted((r for r in rows if _varies(r)), key=lambda r: r["n"])
    colour, marker = style_of(estimator)
    if not mine:
        axis.plot([], [], marker, color=colour, label=f"{estimator} (no variance)")
        return
    below = [r["variance"] - r["variance_low"] for r in mine]
    above = [min(r["variance_high"], 1e3 * r["variance"]) - r["variance"] for r in mine]
    axis.errorbar([r["n"] for r in mine], [r["variance"] for r in mine], (below, above), fmt=marker, ms=5, capsize=4,
                  label=estimator, color=colour)  # fmt: skip
    truth = [(r["n"], r["exact_variance"]) for r in mine if r["exact_variance"]]
    if truth:
        axis.plot(*zip(*truth, strict=True), "-", lw=1, alpha=0.7, color=colour)


def _varies(row: dict[str, Any]) -> bool:
    return row["variance"] > ROUNDING * row["mean"] ** 2
