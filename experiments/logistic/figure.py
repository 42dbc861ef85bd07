"""The figure of `experiments.logistic`: the gap to the best ELBO, and the loss on the held-out rows, during the fit."""

from typing import Any

import numpy as np

from experiments.common.plotting import figure_files, house_style, legend_below, panels, plain_log, style_of
from experiments.logistic.study import Study

FLOOR = 0.1  # nats: a smaller gap is noise from the samples of the curve
FAMILIES = {"mean_field": "mean-field q", "full": "full-covariance q"}


@house_style()
def draw_figure(found: Study) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a column for each family of q. Lines: median of the seeds. Bands: their range.

    Rows: the ELBO against steps and against seconds, and the held-out loss against steps.
    """
    families = list(dict.fromkeys(f.family for f in found.compared))
    held = bool(found.task.settings.held_out)
    figure, axes = panels(3 if held else 2, len(families), height=2.4)
    for family, column in zip(families, axes.T, strict=True):
        mine = [f for f in found.compared if f.family == family]
        best = max(f.elbo for f in mine)
        best = best if np.isfinite(best) else 0.0
        for i, f in enumerate(mine):
            gap = np.maximum(best - np.where(np.isfinite(f.curve.elbo), f.curve.elbo, np.nan), FLOOR)
            curves = [(f.runs.steps, gap), (f.runs.seconds, gap)]
            if held:
                curves.append((f.runs.steps, -f.curve.held_out))
            colour, marker = style_of(f.estimator)
            for axis, (x, y) in zip(column, curves, strict=True):
                axis.fill_between(x, y.min(1), y.max(1), color=colour, alpha=0.2, lw=0)
                axis.plot(x, np.median(y, 1), color=colour, lw=max(1.2, 2.6 - 0.5 * i), marker=marker, ms=4,
                          markevery=(i, max(5, len(x) // 8)), label=f.estimator)  # fmt: skip
        _label(column, FAMILIES.get(family, family), best)
    legend_below(figure, axes[0, 0].get_legend_handles_labels(), ncols=4 if len(families) > 1 else 2)
    settings = found.task.settings
    figure.suptitle(
        f"Bayesian logistic regression, {found.task.table.source}: median and range of {settings.seeds} fits,\n"
        f"each estimator at its best learning rate, {settings.num_samples} evaluations of log g per step"
    )
    return figure_files(figure)


def _label(column: Any, family: str, best: float) -> None:
    titles = ("ELBO against steps", "ELBO against time", "held-out loss against steps")
    for i, (axis, title) in enumerate(zip(column, titles, strict=False)):
        if any(np.isfinite(line.get_ydata()).any() for line in axis.lines):
            axis.set_yscale("log")
            plain_log(axis, "y")
        axis.set(xscale="log", xlabel="seconds of one fit" if i == 1 else "step")
        axis.set(ylabel=f"nats below {best:.2f}, floor {FLOOR:g}" if i < 2 else "-log likelihood, nats per row")
        axis.set_title(f"{family}: {title}")
        plain_log(axis, "x")
        axis.grid(alpha=0.3)
