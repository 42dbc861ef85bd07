"""The figure of `experiments.network`: variance against batch size before and after the units, and the sources by layer."""

from typing import Any

import numpy as np

from experiments.common.plotting import figure_files, house_style, legend_below, panels, plain_log, style_of
from experiments.network.model import LAYERS
from experiments.network.rows import Row
from experiments.network.settings import NetworkSettings

GREY = "#999999"
TITLES = {"encoder": "before the units", "output": "after them"}


@house_style()
def draw_figure(rows: list[Row], settings: NetworkSettings) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row for each family of units, after the last training step."""
    figure, axes = panels(len(settings.families), 3, height=2.9)
    last, handles = max(settings.steps), dict[str, Any]()
    for line, family in zip(axes, settings.families, strict=True):
        mine = [r for r in rows if (r["family"], r["step"]) == (family, last)]
        for axis, layer in zip(line, TITLES, strict=False):
            handles |= _draw_batches(axis, [r for r in mine if r["layer"] == layer], settings.images)
            axis.set_title(f"{family}: {layer} layer, {TITLES[layer]}")
        _draw_sources(line[2], [r for r in rows if r["family"] == family], settings)
        line[2].set_title(f"{family}: the two sources")
    legend_below(figure, (list(handles.values()), list(handles)), ncols=4)
    figure.suptitle(
        f"Noise of the gradient of a network with {settings.units} stochastic units, after {last:,} training steps"
    )
    return figure_files(figure)


def _draw_batches(axis: Any, rows: list[Row], images: int) -> dict[str, Any]:
    """Total variance against the batch size, as measured and as the law of total variance says. Returns the handles."""
    batches = np.array(sorted({r["batch"] for r in rows}), float)
    x = np.geomspace(batches[0], images, 400)
    spread = rows[0]["image_variance"]
    handles = {}
    if len(batches) > 1:
        only = spread * (1 / x[:-1] - 1 / images)
        (handles["minibatch only (exact)"],) = axis.plot(x[:-1], only, "-", lw=4, color=GREY, alpha=0.6)
    for name in dict.fromkeys(r["estimator"] for r in rows):
        mine = [r for r in rows if r["estimator"] == name]
        colour, marker = style_of(name)
        handles[name] = axis.errorbar(
            [r["batch"] for r in mine if r["variance"] > 0], [r["variance"] for r in mine if r["variance"] > 0],
            np.array([[r["variance"] - r["variance_low"], r["variance_high"] - r["variance"]] for r in mine
                      if r["variance"] > 0]).T.reshape(2, -1), fmt=marker, ms=4.5, lw=1.2, color=colour,
        )  # fmt: skip
        # The images of a batch are drawn without replacement, and the mean gradient of a biased estimator is another one.
        if len(batches) > 1:
            own_spread = mine[0]["minibatch_variance"] / (1 / batches[0] - 1 / images)
            known = own_spread if mine[0]["biased"] else spread
            own = mine[-1]["estimator_variance"] * mine[-1]["batch"]
            axis.plot(x, known * (1 / x - 1 / images) + own / x, lw=1.2, color=colour)
    least = min((r["variance"] for r in rows if r["variance"] > 0), default=1.0)
    axis.set(xscale="log", yscale="log", xlabel="images in a batch", ylabel="variance of a gradient")
    axis.set_ylim(bottom=least / 2)
    axis.set_xticks(batches, [f"{b:,.0f}" for b in batches])
    axis.minorticks_off()
    plain_log(axis, "y")
    axis.grid(alpha=0.3)
    return handles


def _draw_sources(axis: Any, rows: list[Row], settings: NetworkSettings) -> None:
    """The estimator's noise over that of the images, by layer. Hollow: at the first step."""
    first, last, smallest = min(settings.steps), max(settings.steps), min(r["batch"] for r in rows)
    names = list(dict.fromkeys(r["estimator"] for r in rows))
    axis.axvline(1, color=GREY, lw=4, alpha=0.6)
    for r in rows:
        if r["batch"] != smallest or r["step"] not in (first, last) or r["layer"] not in LAYERS:
            continue
        if not r["estimator_variance"] > 0:
            continue
        y = LAYERS.index(r["layer"]) + 0.8 * ((names.index(r["estimator"]) + 0.5) / len(names) - 0.5)
        colour, marker = style_of(r["estimator"])
        hollow = r["step"] != last
        axis.plot(smallest * r["estimator_variance"] / r["image_variance"], y, marker, ms=5, color=colour,
                  markerfacecolor="white" if hollow else colour)  # fmt: skip
    axis.set(xscale="log", xlabel="estimator's noise / minibatch's\n(hollow: before training)")
    axis.set_yticks(range(len(LAYERS)), LAYERS)
    axis.set_ylim(len(LAYERS) - 0.5, -0.5)
    for edge in np.arange(len(LAYERS) - 1) + 0.5:
        axis.axhline(edge, color=GREY, lw=0.5)
    plain_log(axis, "x")
    axis.grid(axis="x", alpha=0.3)
