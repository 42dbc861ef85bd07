"""The picture of `experiments.elbo`: log-log variance against D; for the families without location and scale, against distance."""

from typing import Any

from experiments.common.plotting import COLOURS, MARKERS, figure_files, panels

LINES = {"sampled": "-", "exact": "--", "detached": ":"}
ROUNDING = 1e-12  # a variance under that is what 32 bits leave of none


def draw_figure(rows: list[dict[str, Any]], settings: Any) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row of panels for each distance, a column for each block; the families below."""
    variances = [r for r in rows if r["part"] == "variance" and r["quantity"] != "elbo"]
    mine = [r for r in variances if r["q"] == settings.phi]
    families = list(dict.fromkeys(r["q"] for r in variances if r["q"] != settings.phi))
    blocks = list(dict.fromkeys(r["quantity"] for r in sorted(mine, key=lambda r: -r["dimension"])))
    figure, axes = panels(len(settings.distances) + bool(families), max(len(blocks), len(families)))
    figure.set_figheight(figure.get_figheight() + 1.4)  # for the legends below
    names = list(dict.fromkeys(r["estimator"] for r in variances))
    style = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}
    for axis in axes.ravel():
        axis.set_axis_off()
    for i, distance in enumerate(settings.distances):
        for j, block in enumerate(blocks):
            here = [r for r in mine if (r["distance"], r["quantity"]) == (distance, block)]
            title = f"d/d {_words(block)}, distance {distance:g}"
            _panel(axes[i, j], here, "dimension", style, title, "D")
        axes[i, 0].set_ylabel("variance of the estimate")
    for j, family in enumerate(families):
        of_family = [r for r in variances if r["q"] == family]
        first = of_family[0]["quantity"]
        here = [r for r in of_family if r["quantity"] == first]
        title = f"{family.capitalize()}, d/d {first}, D = {here[0]['dimension']}"
        _panel(axes[-1, j], here, "distance", style, title, "distance from the target")
        axes[-1, 0].set_ylabel("variance of the estimate")
    for name, (colour, marker) in style.items():
        axes[0, 0].plot([], [], marker, color=colour, label=name)
    for entropy in dict.fromkeys(r["entropy"] for r in variances):
        axes[0, 0].plot([], [], LINES[entropy], color="grey", label=f"entropy {entropy}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"The ELBO's gradient from {settings.num_samples} samples: q {settings.phi}, target {settings.target}"
    )
    return figure_files(figure)


def _panel(axis: Any, rows: list[dict[str, Any]], x: str, style: Any, title: str, label: str) -> None:
    axis.set_axis_on()
    for estimator, entropy in dict.fromkeys((r["estimator"], r["entropy"]) for r in rows):
        line = sorted((r for r in rows if (r["estimator"], r["entropy"]) == (estimator, entropy) and r["value"] > ROUNDING),
                      key=lambda r: r[x])  # fmt: skip
        colour, marker = style[estimator]
        interval = [[r["value"] - max(r["low"], r["value"] / 10) for r in line], [r["high"] - r["value"] for r in line]]
        axis.errorbar(
            [r[x] for r in line], [r["value"] for r in line], interval, fmt=marker + LINES[entropy], color=colour,
            ms=4, lw=1.2, capsize=2, mfc=colour if entropy != "exact" else "white",
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel=label)
    axis.set_title(title, fontsize=10)
    if x == "dimension":
        ticks = sorted({r[x] for r in rows})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
    axis.grid(which="major", alpha=0.3)


def _words(block: str) -> str:
    return {"mu": "mu", "diagonal": "the diagonal of C", "off_diagonal": "C below its diagonal"}.get(block, block)
