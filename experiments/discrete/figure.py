"""The figure of `experiments.discrete`: the variance and bias of each estimator, and its training curves."""

from typing import Any

import numpy as np

from experiments.common.plotting import figure_files, house_style, panels, style_of

BELOW_MEAN = 1e-9  # relative to the squared mean: a smaller variance is rounding in 32 bits
BELOW_MOST = 1e-10  # the same, relative to the largest variance of all estimators


@house_style()
def draw_figure(rows: list[dict[str, Any]], curves: dict[str, dict[str, Any]], settings: Any) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each problem, at the last target. Left: variance and squared bias. Right: the
    median loss."""
    names = max(len(of) for of in curves.values())
    figure, axes = panels(len(curves), 2, height=max(2.4, 0.6 + 0.28 * names))
    for i, (problem, of) in enumerate(curves.items()):
        target = settings.targets[-1]
        mine = {r["estimator"]: r for r in rows if (r["problem"], r["target"]) == (problem, target)}
        _draw_points(axes[i][0], mine)
        _draw_training(axes[i][1], {name: curve[-1] for name, curve in of.items()}, settings)
        size = {"bits": settings.bits, "categories": settings.classes}[problem]
        axes[i][0].set_title(f"one gradient, {size} {problem}, target t = {target:g}")
        axes[i][1].set_title(f"training, {size} {problem}, target t = {target:g}")
    figure.suptitle(f"Which estimator trains discrete variables? {settings.num_samples} samples of bits, or "
                    f"{settings.evaluations} evaluations of f for categories")  # fmt: skip
    return figure_files(figure)


def _draw_points(axis: Any, rows: dict[str, dict[str, Any]]) -> None:
    most = max(row["variance"] for row in rows.values())
    for j, (name, row) in enumerate(rows.items()):
        colour, marker = style_of(name)
        if row["variance"] > max(BELOW_MEAN * row["mean"] ** 2, BELOW_MOST * most):
            axis.plot([row["variance_low"], row["variance_high"]], [j, j], "-", lw=3, color=colour)
            axis.plot(row["variance"], j, marker, color=colour)
        else:
            axis.annotate("no variance", (0.02, j), xycoords=("axes fraction", "data"), va="center", color=colour)
        if abs(row["bias"]) > 4 * row["standard_error"] and row["biased"]:
            axis.plot(row["bias"] ** 2, j, "x", color=colour, ms=9)
    axis.set(xscale="log", xlabel="variance with 95 % interval (cross: squared bias)")
    axis.set_yticks(range(len(rows)), list(rows))
    for label, name in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(style_of(name).colour)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)


def _draw_training(axis: Any, curves: dict[str, Any], settings: Any) -> None:
    for j, (name, curve) in enumerate(curves.items()):
        colour, marker = style_of(name)
        steps = np.linspace(0, settings.steps, curve.shape[-1])
        every = max(1, len(steps) // 6)
        axis.plot(steps, np.median(curve, 0), "-", color=colour, marker=marker, ms=4.5, lw=1.2,
                  markevery=(j * every // len(curves), every))  # fmt: skip
    axis.set(xlabel="step of Adam (colours and markers as on the left)", ylabel="loss, median of the runs")
    axis.grid(alpha=0.3)
