"""The figure of `experiments.bounds`: log-log signal-to-noise ratio against K."""

from typing import Any

from experiments.common.plotting import figure_files, house_style, legend_below, panels, plain_log, style_of

LINES = {"sticking_the_landing": "--"}
LABELS = {"sticking_the_landing": "sticking_the_landing (biased for K > 1)"}
MOST_TICKS = 6  # with more values of K, the axis has powers of ten
WHOSE = {"A": "inference", "b": "inference", "mu": "model"}


@house_style()
def draw_figure(rows: list[dict[str, Any]], resolved: float) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a row of panels for each distance, a column for each parameter.

    Args:
        rows: the table of results.
        resolved: a ratio below this many noise floors is only an upper bound. It lies in the grey band.
    """
    distances = list(dict.fromkeys(row["perturbation"] for row in rows))
    parameters = list(dict.fromkeys(row["parameter"] for row in rows))
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    ks = sorted({row["k"] for row in rows})
    figure, axes = panels(len(distances), len(parameters))
    for i, distance in enumerate(distances):
        for j, parameter in enumerate(parameters):
            axis = axes[i, j]
            here = [r for r in rows if (r["perturbation"], r["parameter"]) == (distance, parameter)]
            for e, estimator in enumerate(estimators):
                mine = sorted((r for r in here if r["estimator"] == estimator), key=lambda r: r["k"])
                snr = [r["snr"] for r in mine]
                interval = [[r["snr"] - r["snr_low"] for r in mine], [r["snr_high"] - r["snr"] for r in mine]]
                colour, marker = style_of(estimator)
                axis.errorbar(
                    [r["k"] for r in mine], snr, interval, fmt=marker + LINES.get(estimator, "-"), ms=7 - 1.5 * e, lw=1,
                    capsize=3, color=colour, label=LABELS.get(estimator, estimator),
                )  # fmt: skip
            axis.set(xscale="log", yscale="log")
            axis.set_xlabel("K, samples in a bound" if i == len(distances) - 1 else "")
            floor = resolved * here[0]["floor"]
            low, high = axis.get_ylim()
            axis.axhspan(floor / 1e3, floor, color="grey", alpha=0.2, lw=0, label="mostly noise")
            axis.set_ylim(low if low > 5 * floor else min(low, floor / 2), high)
            axis.set_title(f"{parameter} ({WHOSE[parameter]}), {distance:g} from the optimum")
            plain_log(axis, "x")
            if len(ks) <= MOST_TICKS:
                axis.set_xticks(ks, [str(k) for k in ks])
                axis.minorticks_off()
            plain_log(axis, "y")
            axis.grid(which="major", alpha=0.3)
        axes[i, 0].set_ylabel("signal-to-noise ratio")
    legend_below(figure, axes[0, 0].get_legend_handles_labels(), ncols=2)
    figure.suptitle("Does a tighter bound give a better gradient?")
    return figure_files(figure)
