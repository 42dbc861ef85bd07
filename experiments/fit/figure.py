"""The figure of `experiments.fit`: trajectories over the steps with a band over the fits, and the values to find."""

from collections.abc import Mapping
from typing import Any

from experiments.common.plotting import figure_files, house_style, legend_below, panels, style_of
from experiments.fit.fitting import AVERAGE, EXACT, Fits
from experiments.fit.study import FitTask, Part

MOST = 3  # parameters
LINES = {AVERAGE: (0, (3, 3))}  # dashed: it covers leave-one-out almost exactly


@house_style()
def draw_figure(task: FitTask, fitted: dict[str, dict[str, Fits]]) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each objective, a column for each parameter.

    An objective without sampling has one line. It is drawn in the row of an objective with the same minimiser, if there is
    one.
    """
    names = [name for name in task.parts[0].exact if name != "sigma^2"][:MOST]
    rows = _rows(task)
    figure, axes = panels(len(rows), len(names), height=2.3)
    for parts, row in zip(rows, axes, strict=True):
        for name, axis in zip(names, row, strict=True):
            for part in parts:
                _trajectories(axis, part, fitted[part.target.name], name)
            _targets(axis, task, parts[0].least[name], name)
            axis.set_title(f"{parts[0].target.name.replace('_', ' ')}: {name}")
            axis.set_ylabel(name)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    handles: dict[Any, Any] = {}
    for axis in axes.ravel():
        found, words = axis.get_legend_handles_labels()
        handles |= dict(zip(words, found, strict=True))
    legend_below(figure, (list(handles.values()), list(handles)), 2)
    figure.suptitle("Which objective finds sigma? Median of the fits, and the band that holds 90 % of them")
    return figure_files(figure)


def _rows(task: FitTask) -> list[list[Part]]:
    """The objectives of each row: a sampled one, then those without sampling that have the same minimiser."""
    rows: list[list[Part]] = []
    for part in sorted(task.parts, key=lambda part: part.target.sampled is None):
        same = [row for row in rows if _close(row[0].least, part.least)] if part.target.sampled is None else []
        same[0].append(part) if same else rows.append([part])
    return rows


def _close(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> bool:
    return all(
        a is not None and (b := other[name]) is not None and abs(a - b) <= 1e-3 * abs(b) for name, a in one.items()
    )


def _trajectories(axis: Any, part: Part, fitted: Mapping[str, Fits], name: str) -> None:
    for i, (estimator, fits) in enumerate(fitted.items()):
        colour = style_of(estimator).colour
        label = f"{part.target.name.replace('_', ' ')}, exact gradient" if estimator == EXACT else estimator
        width = 1.5 if estimator in LINES or estimator == EXACT else max(1.5, 3.0 - 0.5 * i)
        axis.fill_between(fits.steps, fits.low[name], fits.high[name], color=colour, alpha=0.15, lw=0)
        axis.plot(fits.steps, fits.median[name], color=colour, lw=width, ls=LINES.get(estimator, "-"), label=label)


def _targets(axis: Any, task: FitTask, least: float | None, name: str) -> None:
    if task.data is not None:
        axis.axhline(
            task.data.mean if name == "mu" else task.data.sigma, color="grey", ls="--", lw=1, label="maximum likelihood"
        )
    if least is not None:
        axis.axhline(least, color="black", ls=":", lw=1.2, label="minimiser of the objective")
