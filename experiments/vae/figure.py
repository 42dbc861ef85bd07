"""The picture of `experiments.vae`: the held-out ELBO against steps and seconds, reconstructions and samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import stdtrit

from experiments.common.plotting import COLOURS, figure_files
from experiments.common.record import Row

STYLES = ("-", "--", "-.", ":")


def draw_figure(
    rows: Sequence[Row], pictures: Mapping[str, np.ndarray], independent: float, settings: Any
) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: above, curves with 95 % intervals over the seeds; below, images of the first seed."""
    figure = Figure(figsize=(13, 6.4 + 0.5 * len(settings.estimators)), layout="constrained")
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
            _curve(axes["margin"], x[name]["step"], elbo[names[0]] - elbo[name], i, f"above {name}")
    for unit, label in (("step", "step"), ("seconds", f"seconds of training, all {settings.seeds} seeds together")):
        axes[unit].axhline(independent, color="grey", ls=":", lw=1.2, label="independent pixels, no z")
        axes[unit].set(xlabel=label, ylabel="nats an image", title="held-out ELBO")
        _from_independent(axes[unit], independent, max(np.nanmax(y.mean(0)) for y in elbo.values()))
    axes["margin"].axhline(0, color="black", lw=0.8)
    axes["margin"].set(xlabel="step", ylabel="nats an image", title=f"{names[0]} minus the other")
    axes["margin"].set_visible(len(names) > 1)
    for name in ("step", "seconds", "margin"):
        axes[name].grid(alpha=0.3)
        axes[name].title.set_fontsize(10)
    columns = len(pictures["originals"])
    seen = {"original": pictures["originals"]} | {name: pictures[f"reconstructions/{name}"] for name in names}
    _show(axes["seen"], seen, columns, "held-out digits and their reconstructions")
    samples = {name: pictures[f"samples/{name}"] for name in names}
    _show(axes["samples"], samples, columns, "samples of z from the prior, decoded")
    figure.legend(*axes["step"].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"A variational autoencoder ({settings.likelihood}) by gradient estimator: mean and 95 % interval "
                    f"over {settings.seeds} seeds")  # fmt: skip
    return figure_files(figure)


def _curve(axis: Any, x: Sequence[float], y: np.ndarray, i: int, label: str) -> None:
    """The mean over the seeds, the first axis of y, and its interval."""
    mean, half = y.mean(0), stdtrit(len(y) - 1, 0.975) * y.std(0, ddof=1) / len(y) ** 0.5
    colour = COLOURS[i % len(COLOURS)]
    axis.fill_between(x, mean - half, mean + half, color=colour, alpha=0.25, lw=0)
    axis.plot(x, mean, STYLES[i % len(STYLES)], color=colour, lw=1.5, label=label)


def _from_independent(axis: Any, independent: float, best: float) -> None:
    """Cut off what lies far under a model without a z: the first steps are there, and would flatten all the rest."""
    if best > independent:
        axis.set_ylim(independent - 0.1 * (best - independent), best + 0.1 * (best - independent))


def _show(axis: Any, images: Mapping[str, np.ndarray], columns: int, title: str) -> None:
    """Rows of images under one another, named at the left."""
    tiles = {name: [_row(x[i : i + columns]) for i in range(0, len(x), columns)] for name, x in images.items()}
    whole = np.concatenate([row for rows in tiles.values() for row in rows])
    axis.imshow(whole, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    heights = [len(rows) * len(rows[0]) for rows in tiles.values()]
    middles = np.cumsum(heights) - np.array(heights) / 2 - 0.5
    axis.set_yticks(middles, [name.replace("+", "\n+ ").replace("_", " ") for name in tiles], fontsize=8)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_title(title, fontsize=10)


def _row(images: np.ndarray) -> np.ndarray:
    """Images side by side, with a light line between."""
    return np.concatenate([np.pad(x, 1, constant_values=0.15) for x in images], axis=1)
