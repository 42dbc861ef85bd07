"""The picture of `experiments.bounds`: log-log signal-to-noise ratio against K."""

from typing import Any

from experiments.common.plotting import COLOURS, MARKERS, figure_files, panels

LINES = {"sticking_the_landing": "--"}
LABELS = {"sticking_the_landing": "sticking_the_landing (biased for K > 1)"}
WHOSE = {"A": "inference", "b": "inference", "mu": "model"}


def draw_figure(rows: list[dict[str, Any]], resolved: float) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row of panels for each distance, a column for each parameter.

    What is under `resolved` noise floors is in the grey band, where a ratio is no more than an upper bound.
    Dashed: biased.
    """
    distances = list(dict.fromkeys(row["perturbation"] for row in rows))
    parameters = list(dict.fromkeys(row["parameter"] for row in rows))
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    figure, axes = panels(len(distances), len(parameters))
    for i, distance in enumerate(distances):
        for j, parameter in enumerate(parameters):
            axis = axes[i, j]
            here = [r for r in rows if (r["perturbation"], r["parameter"]) == (distance, parameter)]
            for e, estimator in enumerate(estimators):
                mine = sorted((r for r in here if r["estimator"] == estimator), key=lambda r: r["k"])
                snr = [r["snr"] for r in mine]
                interval = [[r["snr"] - r["snr_low"] for r in mine], [r["snr_high"] - r["snr"] for r in mine]]
                style = MARKERS[e % len(MARKERS)] + LINES.get(estimator, "-")
                axis.errorbar(
                    [r["k"] for r in mine], snr, interval, fmt=style, ms=5, lw=1, capsize=3,
                    color=COLOURS[e % len(COLOURS)], label=LABELS.get(estimator, estimator),
                )  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel="K, samples in a bound")
            floor = resolved * here[0]["floor"]
            low, high = axis.get_ylim()
            axis.axhspan(floor / 1e3, floor, color="grey", alpha=0.2, lw=0, label="mostly noise")
            axis.set_ylim(low if low > 5 * floor else min(low, floor / 2), high)
            axis.set_title(f"d/d {parameter} ({WHOSE[parameter]}), within {distance:g} of the optimum", fontsize=10)
            axis.grid(which="major", alpha=0.3)
        axes[i, 0].set_ylabel("signal-to-noise ratio")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(estimators) + 1, frameon=False
    )
    figure.suptitle("Does a tighter bound give a better gradient?")
    return figure_files(figure)
