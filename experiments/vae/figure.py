"""The figure of `experiments.vae`: the held-out ELBO against steps and seconds, reconstructions and samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import stdtrit

from experiments.common.plotting import figure_files, house_style, legend_below, style_of
from experiments.common.record import Row

STYLES = ("-", "--", "-.", ":")


@house_style()
def draw_figure(
    rows: Sequence[Row], pictures: Mapping[str, np.ndarray], independent: float, settings: Any
) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: above, curves with 95 % intervals over the seeds. Below, images of the first seed."""
    figure = Figure(figsize=(9, 5.0 + 0.5 * len(settings.estimators)), layout="constrained")
    places: Any = [["step", "step", "seconds", "seconds", "margin", "margin"], ["seen"] * 3 + ["samples"] * 3]
    axes: Any = figure.subplot_mosaic(places, height_ratios=(1.5, 1))
    names = settings.estimators
    of = {name: [r for r in rows if r["estimator"] == name] for name in names}
    x = {name: {unit: [r[unit] for r in of[name] if r["seed"] == 0] for unit in ("step", "seconds")} for name in names}
    elbo = {
        name: np.array([[r["test_elbo"] for r in of[name] if r["seed"] == i] for i in range(settings.seeds)])
        for name in names
    }
    for i, name in enumerate(names):
        for unit in ("step", "seconds"):
            _curve(axes[unit], x[name][unit], elbo[name], i, name)
        if i:
            _curve(axes["margin"], x[name]["step"], elbo[names[0]] - elbo[name], i, name)
    for unit, label in (("step", "step"), ("seconds", f"seconds, all {settings.seeds} seeds together")):
        axes[unit].axhline(independent, color="grey", ls=":", lw=1.2, label="independent pixels, no z")
        axes[unit].set(xlabel=label, ylabel="nats per image", title="held-out ELBO")
        _from_independent(axes[unit], independent, max(np.nanmax(y.mean(0)) for y in elbo.values()))
    axes["margin"].axhline(0, color="black", lw=0.8)
    axes["margin"].set(xlabel="step", ylabel="nats per image", title=f"{names[0]}\nminus the other")
    axes["margin"].set_visible(len(names) > 1)
    for name in ("step", "seconds", "margin"):
        axes[name].grid(alpha=0.3)
    columns = len(pictures["originals"])
    seen = {"original": pictures["originals"]} | {name: pictures[f"reconstructions/{name}"] for name in names}
    _show(axes["seen"], seen, columns, "held-out digits and their reconstructions")
    samples = {name: pictures[f"samples/{name}"] for name in names}
    _show(axes["samples"], samples, columns, "samples of z from the prior, decoded")
    legend_below(figure, axes["step"].get_legend_handles_labels())
    figure.suptitle(f"Which estimator trains a variational autoencoder better? {settings.likelihood.capitalize()} pixels, "
                    f"mean and 95 % interval over {settings.seeds} seeds", fontsize=10)  # fmt: skip
    return figure_files(figure)


def _curve(axis: Any, x: Sequence[float], y: np.ndarray, i: int, name: str) -> None:
    """The mean over the seeds and its interval. The first axis of y is the seed."""
    mean, half = y.mean(0), stdtrit(len(y) - 1, 0.975) * y.std(0, ddof=1) / len(y) ** 0.5
    colour = style_of(name).colour
    axis.fill_between(x, mean - half, mean + half, color=colour, alpha=0.25, lw=0)
    axis.plot(x, mean, STYLES[i % len(STYLES)], color=colour, lw=1.5, label=name)


def _from_independent(axis: Any, independent: float, best: float) -> None:
    """Cuts off values far below a model without z: those of the first steps, which would flatten the rest."""
    if best > independent:
        axis.set_ylim(independent - 0.1 * (best - independent), best + 0.1 * (best - independent))


def _show(axis: Any, images: Mapping[str, np.ndarray], columns: int, title: str) -> None:
    """Rows of images, one below the other, with names on the left."""
    tiles = {name: [_row(x[i : i + columns]) for i in range(0, len(x), columns)] for name, x in images.items()}
    whole = np.concatenate([row for rows in tiles.values() for row in rows])
    axis.imshow(whole, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    heights = [len(rows) * len(rows[0]) for rows in tiles.values()]
    middles = np.cumsum(heights) - np.array(heights) / 2 - 0.5
    axis.set_yticks(
        middles,
        [name.replace("+", "\n+ ").replace("_", " ") for name in tiles],
    )
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_title(title)


def _row(images: np.ndarray) -> np.ndarray:
    """Images side by side, with a light line between them."""
    return np.concatenate([np.pad(x, 1, constant_values=0.15) for x in images], axis=1)
