"""The picture of `experiments.fit`: trajectories over the steps, median and band over the fits, and the target lines."""

from typing import Any

from experiments.common.plotting import COLOURS, figure_files, panels
from experiments.fit.fitting import Fits
from experiments.fit.study import FitTask

MOST = 3  # parameters


def draw_figure(task: FitTask, fitted: dict[str, dict[str, Fits]]) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each objective, a column for each parameter."""
    names = [name for name in task.parts[0].exact if name != "sigma^2"][:MOST]
    estimators = list(dict.fromkeys(estimator for by in fitted.values() for estimator in by))
    figure, axes = panels(len(task.parts), len(names))
    for part, row in zip(task.parts, axes, strict=True):
        for name, axis in zip(names, row, strict=True):
            for estimator, fits in fitted[part.target.name].items():
                colour = COLOURS[estimators.index(estimator) % len(COLOURS)]
                axis.fill_between(fits.steps, fits.low[name], fits.high[name], color=colour, alpha=0.2, lw=0)
                axis.plot(fits.steps, fits.median[name], color=colour, lw=1.5, label=estimator)
            _targets(axis, task, part.least[name], name)
            axis.set(title=f"{part.target.name}: {name}", xlabel="step", ylabel=name)
            axis.grid(alpha=0.3)
    handles: dict[Any, Any] = {}
    for axis in axes.ravel():
        found, words = axis.get_legend_handles_labels()
        handles |= dict(zip(words, found, strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(3, 2 * len(names) - 1),
        frameon=False,
    )
    figure.suptitle("median of the fits, and the band that holds 90 % of them")
    return figure_files(figure)


def _targets(axis: Any, task: FitTask, least: float | None, name: str) -> None:
    if task.data is not None:
        axis.axhline(
            task.data.mean if name == "mu" else task.data.sigma, color="grey", ls="--", lw=1, label="maximum likelihood"
        )
    if least is not None:
        axis.axhline(least, color="black", ls=":", lw=1.2, label="minimiser of the objective")
