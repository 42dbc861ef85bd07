"""The figure of `experiments.svi`: variances, ELBO curves, and posteriors compared with NUTS."""

from typing import Any

import numpy as np

from experiments.common.plotting import figure_files, house_style, legend_below, panels, plain_log, style_of
from experiments.svi.fits import SviFits
from experiments.svi.report import GLOBALS, first_globals
from experiments.svi.study import PLACES, SviStudy, assignments_of

FLOOR = 1e-3  # nats: smaller gaps are drawn here
PARAMETERS = {"logits": "logits of z", "mean_loc": "means", "sd_loc": "log sd", "odds_loc": "log odds"}


@house_style()
def draw_figure(found: SviStudy) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`. Lines: median of the seeds. Bands: their range."""
    figure, axes = panels(2 if found.posterior is None else 3, 2, height=2.8)
    for axis, place in zip(axes[0], PLACES, strict=True):
        _draw_variances(axis, found, place)
    for axis, part in zip(axes[1], ("particles", "time"), strict=True):
        _draw_curves(axis, found, part)
    if found.posterior is not None:
        _draw_assignments(axes[2, 0], found)
        _draw_globals(axes[2, 1], found)
    legend_below(figure, axes[1, 0].get_legend_handles_labels(), ncols=4)
    s = found.task.settings
    figure.suptitle(
        f"A mixture of two normals, {found.task.column.name}: {s.num_particles} particles for each gradient,\n"
        f"each loss at its best learning rate, median and range of {s.seeds} fits"
    )
    return figure_files(figure)


def _draw_variances(axis: Any, found: SviStudy, place: str) -> None:
    losses = list(found.task.ways)
    for g in found.gradients:
        if g.place != place or g.parameter not in PARAMETERS or not g.variance > 0:
            continue
        y = list(PARAMETERS).index(g.parameter) + 0.8 * ((losses.index(g.loss) + 0.5) / len(losses) - 0.5)
        colour, marker = style_of(g.loss)
        axis.plot([g.low, g.high], [y, y], "-", lw=2, color=colour)
        axis.plot(g.variance, y, marker, color=colour, ms=5)
    axis.set(xscale="log", xlabel="variance, summed over the elements")
    axis.set_yticks(range(len(PARAMETERS)), PARAMETERS.values())
    axis.set_ylim(len(PARAMETERS) - 0.5, -0.5)
    axis.set_title(f"gradient at the {place}")
    plain_log(axis, "x")
    axis.grid(axis="x", alpha=0.3)


def _draw_curves(axis: Any, found: SviStudy, part: str) -> None:
    for i, (name, f) in enumerate((found.equal_particles if part == "particles" else found.equal_time).items()):
        best = found.best[found.task.ways[name].marginal]
        x = f.steps if part == "particles" else 1e3 * f.seconds
        gap = np.maximum(best - f.elbo[:, f.chosen], FLOOR)
        colour, marker = style_of(name)
        axis.fill_between(x, gap.min(1), gap.max(1), color=colour, alpha=0.2, lw=0)
        axis.plot(x, np.median(gap, 1), color=colour, lw=1.4, marker=marker, ms=4, label=name,
                  markevery=(i % max(1, len(x) // 8), max(1, len(x) // 8)))  # fmt: skip
    axis.set(yscale="log", ylabel="nats below the best ELBO")
    axis.set(xlabel="step" if part == "particles" else "milliseconds of one fit")
    axis.set_title(f"fits at equal {part}")
    plain_log(axis, "y")
    axis.grid(alpha=0.3)


def _draw_assignments(axis: Any, found: SviStudy) -> None:
    x, posterior = found.task.column.x, found.posterior
    assert posterior is not None
    order = np.argsort(x)
    axis.plot(x[order], posterior.assignments[order], "-", color="#999999", lw=5, label="NUTS")
    for name, f in found.equal_particles.items():
        colour, marker = style_of(name)
        z = assignments_of(_first(f), x, np.random.default_rng(0))
        wrong = found.task.ways[name].biased  # neighbours differ, and a line would hide the others
        axis.plot(
            x[order],
            z[order],
            linestyle="" if wrong else "-",
            color=colour,
            lw=1.2,
            marker=marker,
            ms=3,
            markevery=4 if wrong else 12,
        )
    axis.set(xlabel="datum, standardised", ylabel="P(z = 1)")
    axis.set_title("assignments (grey: NUTS)")
    axis.grid(alpha=0.3)


def _draw_globals(axis: Any, found: SviStudy) -> None:
    posterior = found.posterior
    assert posterior is not None
    mean, sd = posterior.theta.mean(0), posterior.theta.std(0, ddof=1)
    axis.axvspan(-1, 1, color="#999999", alpha=0.3, lw=0)
    fits = found.equal_particles
    for i, (name, f) in enumerate(fits.items()):
        loc, scale = (np.array(part) for part in first_globals(f))
        y = np.arange(len(GLOBALS)) + 0.8 * ((i + 0.5) / len(fits) - 0.5)
        colour, marker = style_of(name)
        axis.errorbar((loc - mean) / sd, y, xerr=scale / sd, fmt=marker, color=colour, ms=4, lw=1.2)
    axis.set_yticks(range(len(GLOBALS)), GLOBALS)
    axis.set_ylim(len(GLOBALS) - 0.5, -0.5)
    axis.set_xlabel("mean and sd, relative to NUTS")
    axis.set_title("globals (grey: NUTS)")
    axis.grid(axis="x", alpha=0.3)


def _first(f: SviFits) -> dict[str, Any]:
    """The parameters of the guide of the first seed."""
    return {name: value[-1, f.chosen, 0] for name, value in f.params.items()}
