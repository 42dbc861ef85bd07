"""The picture of `experiments.discrete`: variance and bias of each estimator, and its training curves."""

from typing import Any

import numpy as np

from experiments.common.plotting import COLOURS, figure_files, panels

STYLES = ("-", "--", ":")
ROUNDING = 1e-9  # relative to the square of the mean: a variance under that is what 32 bits leave of none


def draw_figure(rows: list[dict[str, Any]], curves: dict[str, Any], settings: Any) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each target; variance and |bias| as points, the median loss against steps."""
    figure, axes = panels(len(settings.targets), 2)
    figure.set_size_inches(13, 1.5 + 4.2 * len(settings.targets))
    names = list(curves)
    for i, target in enumerate(settings.targets):
        points, training = axes[i]
        mine = {row["estimator"]: row for row in rows if row["target"] == target}
        for j, name in enumerate(names):
            row, colour = mine[name], COLOURS[j % len(COLOURS)]
            if row["variance"] > ROUNDING * row["mean"] ** 2:
                points.plot([row["variance_low"], row["variance_high"]], [j, j], "-", lw=3, color=colour)
                points.plot(row["variance"], j, "o", color=colour)
            else:
                points.annotate("no variance", (0.02, j), xycoords=("axes fraction", "data"), va="center", color=colour)
            if abs(row["bias"]) > 4 * row["standard_error"] and row["biased"]:
                points.plot(row["bias"] ** 2, j, "x", color=colour, ms=9)
            steps = np.linspace(0, settings.steps, curves[name].shape[-1])
            middle = np.median(curves[name][i], 0)
            training.plot(steps, middle, STYLES[j // len(COLOURS) % 3], color=colour, label=name)
        points.set(xscale="log", xlabel="variance (with 95 % interval); x: squared bias", title=f"t = {target:g}")
        points.set_yticks(range(len(names)), names)
        points.set_ylim(len(names) - 0.5, -0.5)
        points.grid(axis="x", alpha=0.3)
        training.set(xlabel="step of Adam", ylabel="loss, median of the runs", title=f"t = {target:g}")
        training.grid(alpha=0.3)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{settings.bits} bits, f(b) = mean (b - t)^2, {settings.num_samples} samples of each gradient")
    return figure_files(figure)
