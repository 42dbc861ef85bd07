"""The figure of `experiments.discrete`: the variance and bias of each estimator, and its training curves."""

from typing import Any

import numpy as np

from experiments.common.plotting import figure_files, house_style, panels, style_of

BELOW_MEAN = 1e-9  # relative to the squared mean: a smaller variance is rounding in 32 bits
BELOW_MOST = 1e-10  # the same, relative to the largest variance of all estimators


@house_style()
def draw_figure(rows: list[dict[str, Any]], curves: dict[str, Any], settings: Any) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each target. Left: variance and squared bias. Right: the median loss."""
    names = list(curves)
    figure, axes = panels(len(settings.targets), 2, height=max(2.4, 0.6 + 0.28 * len(names)))
    for i, target in enumerate(settings.targets):
        points, training = axes[i]
        mine = {row["estimator"]: row for row in rows if row["target"] == target}
        most = max(row["variance"] for row in mine.values())
        for j, name in enumerate(names):
            row, (colour, marker) = mine[name], style_of(name)
            if row["variance"] > max(BELOW_MEAN * row["mean"] ** 2, BELOW_MOST * most):
                points.plot([row["variance_low"], row["variance_high"]], [j, j], "-", lw=3, color=colour)
                points.plot(row["variance"], j, marker, color=colour)
            else:
                points.annotate("no variance", (0.02, j), xycoords=("axes fraction", "data"), va="center", color=colour)
            if abs(row["bias"]) > 4 * row["standard_error"] and row["biased"]:
                points.plot(row["bias"] ** 2, j, "x", color=colour, ms=9)
            steps = np.linspace(0, settings.steps, curves[name].shape[-1])
            every = max(1, len(steps) // 6)
            training.plot(steps, np.median(curves[name][i], 0), "-", color=colour, marker=marker, ms=4.5, lw=1.2,
                          markevery=(j * every // len(names), every))  # fmt: skip
        points.set(xscale="log", xlabel="variance with 95 % interval (cross: squared bias)")
        points.set_title(f"one gradient, target t = {target:g}")
        points.set_yticks(range(len(names)), names)
        for label, name in zip(points.get_yticklabels(), names, strict=True):
            label.set_color(style_of(name).colour)
        points.set_ylim(len(names) - 0.5, -0.5)
        points.grid(axis="x", alpha=0.3)
        training.set(xlabel="step of Adam (colours and markers as on the left)", ylabel="loss, median of the runs")
        training.set_title(f"training, target t = {target:g}")
        training.grid(alpha=0.3)
    figure.suptitle(f"Which estimator trains {settings.bits} bits? f(b) = mean (b - t)^2, "
                    f"{settings.num_samples} samples for each gradient")  # fmt: skip
    return figure_files(figure)
