"""The figure of `experiments.elbo`: log-log variance against D, or against distance for Gamma, Beta and Dirichlet."""

from typing import Any

from matplotlib.lines import Line2D

from experiments.common.plotting import figure_files, house_style, legend_below, panels, plain_log, style_of

LINES = {"sampled": "-", "exact": "--", "detached": ":"}
ROUNDING = 1e-12  # a smaller variance is rounding in 32 bits


@house_style()
def draw_figure(rows: list[dict[str, Any]], settings: Any) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row of panels for each distance, a column for each block. The families are below."""
    variances = [r for r in rows if r["part"] == "variance" and r["quantity"] != "elbo"]
    mine = [r for r in variances if r["q"] == settings.phi]
    families = list(dict.fromkeys(r["q"] for r in variances if r["q"] != settings.phi))
    blocks = list(dict.fromkeys(r["quantity"] for r in sorted(mine, key=lambda r: -r["dimension"])))
    figure, axes = panels(len(settings.distances) + bool(families), max(len(blocks), len(families)))
    for axis in axes.ravel():
        axis.set_axis_off()
    for i, distance in enumerate(settings.distances):
        for j, block in enumerate(blocks):
            here = [r for r in mine if (r["distance"], r["quantity"]) == (distance, block)]
            title = f"{_words(block)}, distance {distance:g}"
            _panel(axes[i, j], here, "dimension", title, "D, dimensions")
        axes[i, 0].set_ylabel("variance of the estimate")
    for j, family in enumerate(families):
        of_family = [r for r in variances if r["q"] == family]
        first = of_family[0]["quantity"]
        here = [r for r in of_family if r["quantity"] == first]
        title = f"{family.capitalize()}, {first}, D = {here[0]['dimension']}"
        _panel(axes[-1, j], here, "distance", title, "distance from the target")
        axes[-1, 0].set_ylabel("variance of the estimate")
    ways = list(dict.fromkeys((r["estimator"], r["entropy"]) for r in variances))
    handles = [Line2D([], [], **_style(*way)) for way in ways]
    legend_below(figure, (handles, [f"{estimator}/{entropy}" for estimator, entropy in ways]))
    figure.suptitle(
        f"How noisy is the gradient of the ELBO? q {settings.phi}, target {settings.target}, {settings.num_samples} samples.\n"
        "Legend: estimator/entropy. The derivative is with respect to the parameters in the title of the panel."
    )
    return figure_files(figure)


def _style(estimator: str, entropy: str) -> dict[str, Any]:
    """Line and marker: the estimator sets the colour and the marker, the entropy the dashes. Hollow: exact entropy."""
    colour, marker = style_of(estimator)
    return {"color": colour, "marker": marker, "ls": LINES[entropy], "ms": 4.5, "lw": 1.2,
            "mfc": "white" if entropy == "exact" else colour}  # fmt: skip


def _panel(axis: Any, rows: list[dict[str, Any]], x: str, title: str, label: str) -> None:
    axis.set_axis_on()
    for estimator, entropy in dict.fromkeys((r["estimator"], r["entropy"]) for r in rows):
        line = sorted((r for r in rows if (r["estimator"], r["entropy"]) == (estimator, entropy) and r["value"] > ROUNDING),
                      key=lambda r: r[x])  # fmt: skip
        interval = [[r["value"] - max(r["low"], r["value"] / 10) for r in line], [r["high"] - r["value"] for r in line]]
        axis.errorbar(
            [r[x] for r in line], [r["value"] for r in line], interval, capsize=2, **_style(estimator, entropy)
        )
    axis.set(xscale="log", yscale="log", xlabel=label)
    axis.set_title(title)
    plain_log(axis, "y")
    if x == "dimension":
        ticks = sorted({r[x] for r in rows})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
    axis.grid(which="major", alpha=0.3)


def _words(block: str) -> str:
    return {"mu": "mu", "diagonal": "the diagonal of C", "off_diagonal": "C below its diagonal"}.get(block, block)
