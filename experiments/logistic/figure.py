"""The picture of `experiments.logistic`: how far each estimator is from the best ELBO, and the rows held out, as it goes."""

from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from experiments.common.plotting import COLOURS, MARKERS, figure_files, panels
from experiments.logistic.study import Study

FLOOR = 0.1  # nats: a gap under that is noise of the curve's own samples


def draw_figure(found: Study) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each family; against steps and seconds, the median and range of the seeds."""
    families = list(dict.fromkeys(f.family for f in found.compared))
    held = bool(found.task.settings.held_out)
    figure, axes = panels(len(families), 4 if held else 2)
    for family, row in zip(families, axes, strict=True):
        mine = [f for f in found.compared if f.family == family]
        best = max(f.elbo for f in mine)
        best = best if np.isfinite(best) else 0.0
        for i, f in enumerate(mine):
            gap = np.maximum(best - np.where(np.isfinite(f.curve.elbo), f.curve.elbo, np.nan), FLOOR)
            columns = [(f.runs.steps, gap), (f.runs.seconds, gap)]
            if held:
                columns += [(f.runs.steps, -f.curve.held_out), (f.runs.seconds, -f.curve.held_out)]
            for axis, (x, y) in zip(row, columns, strict=True):
                colour = COLOURS[i % len(COLOURS)]
                axis.fill_between(x, y.min(1), y.max(1), color=colour, alpha=0.2, lw=0)
                axis.plot(x, np.median(y, 1), color=colour, lw=1.5, marker=MARKERS[i % len(MARKERS)], ms=4,
                          markevery=(i, max(5, len(x) // 8)), label=f.estimator)  # fmt: skip
        _label(row, family, best)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"Bayesian logistic regression, {found.task.table.source}: median and range of {found.task.settings.seeds} fits, "
        f"each estimator at its best learning rate, {found.task.settings.num_samples} evaluations of log g in a step"
    )
    return figure_files(figure)


def _label(row: Any, family: str, best: float) -> None:
    for i, axis in enumerate(row):
        if any(np.isfinite(line.get_ydata()).any() for line in axis.lines):
            axis.set_yscale("log")
        axis.set(xscale="log", xlabel="seconds of a fit" if i % 2 else "step")
        axis.set(ylabel=f"nats below {best:.2f} (no less than {FLOOR:g})" if i < 2 else "nats per row")
        axis.set_title(f"{family}: {'ELBO' if i < 2 else '-log likelihood, held out'}", fontsize=10)
        axis.xaxis.set_minor_formatter(NullFormatter())
        if i >= 2:  # less than a decade
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "236" else "")
        axis.grid(alpha=0.3)
