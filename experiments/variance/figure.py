"""The picture of `experiments.variance`: log-log variance against N, with intervals and the exact lines."""

from typing import Any

from experiments.common.plotting import COLOURS, MARKERS, figure_files, grid

MOST = 6  # panels
ROUNDING = 1e-13  # relative to the square of the mean: what 32 bits leave of no variance


def draw_figure(rows: list[dict[str, Any]], problem: str) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a panel for each parameter coordinate, the first few where there are many."""
    parameters = list(dict.fromkeys(row["parameter"] for row in rows))
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    shown = parameters[:MOST]
    figure, axes = grid(len(shown))
    figure.set_figheight(figure.get_figheight() + 0.12 * len(estimators))  # for the legend below
    for axis, parameter in zip(axes, shown, strict=True):
        for i, estimator in enumerate(estimators):
            mine = [r for r in rows if (r["estimator"], r["parameter"]) == (estimator, parameter) and _varies(r)]
            mine.sort(key=lambda r: r["n"])
            style = {"color": COLOURS[i % len(COLOURS)]}
            if not mine:
                axis.plot([], [], "o", label=f"{estimator} (no variance)", **style)
                continue
            numbers, variance = [r["n"] for r in mine], [r["variance"] for r in mine]
            below = [r["variance"] - r["variance_low"] for r in mine]
            above = [min(r["variance_high"], 1e3 * r["variance"]) - r["variance"] for r in mine]
            axis.errorbar(
                numbers,
                variance,
                (below, above),
                fmt=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],  # no two alike
                ms=5,
                capsize=4,
                label=estimator,
                **style,
            )
            truth = [(r["n"], r["exact_variance"]) for r in mine if r["exact_variance"]]
            if truth:
                axis.plot(*zip(*truth, strict=True), "-", lw=1, alpha=0.7, **style)
        shows = any(_varies(r) for r in rows if r["parameter"] == parameter)
        axis.set(
            xscale="log",
            yscale="log" if shows else "linear",
            xlabel="N, samples of one gradient estimate",
            title=f"d/d {parameter}",
        )
        axis.set_ylabel("variance of the estimate")
        axis.grid(which="major", alpha=0.3)
    if any(row["exact_variance"] for row in rows):
        axes[0].plot([], [], "-", color="grey", lw=1, label="exact")
    figure.legend(loc="outside lower center", ncols=2, frameon=False) if len(axes) == 1 else figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    more = f" (the first {MOST} of {len(parameters)} coordinates)" if len(parameters) > MOST else ""
    figure.suptitle(f"{problem}: how noisy is the gradient?{more}")
    return figure_files(figure)


def _varies(row: dict[str, Any]) -> bool:
    return row["variance"] > ROUNDING * row["mean"] ** 2
