"""The figure of `experiments.crossover`: maps of the variance ratio with its contour at one, and lines."""

import math
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from experiments.common.plotting import COLOURS, figure_files, house_style, panels

MOST = 2.0  # log10 of the ratio at which the colours end
LABELS = {"k": "k, degree of Chebyshev polynomial"}
Rows = list[dict[str, Any]]


@house_style()
def draw_figure(rows: Rows, checks: Rows, settings: Any) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: a map for each r, for d/d mu and d/d sigma. Then lines over D and over phi."""
    names = settings.functions
    columns = min(3, len(names) + 1)
    half = math.ceil((len(names) + 1) / columns)
    figure, axes = panels(2 * half, columns, height=2.3)
    for i, parameter in enumerate(("mu", "sigma")):
        here = axes[i * half : (i + 1) * half].ravel().tolist()
        for axis, name in zip(here, names, strict=False):
            mine = [r for r in rows if (r["part"], r["function"], r["parameter"]) == ("map", name, parameter)]
            at = [c for c in checks if (c["part"], c["function"], c["parameter"]) == ("map", name, parameter)]
            mesh = _map(axis, mine, at)
            axis.set_title(f"d/d {parameter}, r = {mine[0]['r']}")
        lines, *empty = here[len(names) :]
        _lines(lines, "dimension" if parameter == "mu" else "phi", rows, checks, settings)
        if parameter == "mu":
            lines.set_title("d/d mu_1, sum of r over D")
            lines.set_xlabel("D, dimensions (sigma = 1)")
        else:
            lines.set_title("d/d phi, one parameter for both")
            lines.set_xlabel(f"phi (mu {settings.mu}, sigma {settings.sigma})")
        for axis in empty:
            axis.set_axis_off()
    bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", extend="both", fraction=0.02, aspect=60, pad=0.01)
    bar.set_label(
        "maps: log10 of Var[score_function] / Var[reparameterized] (blue: score_function has the lower variance)"
    )
    key = (
        ("-", "ratio (in maps: where it is one)"),
        ("--", "the same with the best constant baseline"),
        (".", "measured"),
    )
    handles = [Line2D([], [], ls="" if mark == "." else mark, marker=mark if mark == "." else "", color="black", ms=5)
               for mark, _ in key]  # fmt: skip
    figure.legend(handles, [words for _, words in key], loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Does the reparameterization trick always have the lower variance? "
                    f"E[r(z)], z ~ N({settings.loc:g}, sigma^2)")  # fmt: skip
    return figure_files(figure)


def _map(axis: Any, rows: Rows, checks: Rows) -> Any:
    knobs, sigmas = (np.unique([r[name] for r in rows]) for name in ("value", "sigma"))
    place = {(r["sigma"], r["value"]): r for r in rows}
    values = lambda name: np.array([[place[s, k][name] for k in knobs] for s in sigmas])
    ratio, best = values("log10_ratio"), values("log10_ratio_best_constant")
    mesh = axis.pcolormesh(
        knobs, sigmas, np.clip(ratio, -2 * MOST, 2 * MOST), cmap="RdBu_r", norm=Normalize(-MOST, MOST), shading="nearest",
        rasterized=True,
    )  # fmt: skip
    for surface, style in ((ratio, "-"), (best, "--")):
        finite = np.clip(surface, -2 * MOST, 2 * MOST)
        if np.nanmin(finite) < 0 < np.nanmax(finite):
            axis.contour(
                knobs, sigmas, finite, [0.0], colors="black", linewidths=1.6 if style == "-" else 1.2, linestyles=style
            )
    infinite = values("source") == "infinite"
    knob = str(rows[0]["knob"])
    label = LABELS.get(knob, knob)
    if infinite.any():
        axis.contourf(knobs, sigmas, infinite, [0.5, 1.5], colors="none", hatches=["////"])
        label += " (hatched: infinite variance)"
    axis.plot([c["value"] for c in checks], [c["sigma"] for c in checks], ".", color="black", ms=3)
    axis.set(yscale="log", xscale="log" if knob == "omega" else "linear", xlabel=label, ylabel="sigma")
    return mesh


def _lines(axis: Any, x: str, rows: Rows, checks: Rows, settings: Any) -> None:
    """The ratio against x, a dimension or a phi. A line for each r, dots where the ratio was measured."""
    for name, colour in zip(settings.functions, COLOURS, strict=False):
        mine = sorted((r for r in rows if (r["part"], r["function"]) == (x, name)), key=lambda r: r[x])
        label = mine[0]["r"].replace(mine[0]["knob"], f"{mine[0]['value']:g}")
        for column, style in (("log10_ratio", {"label": label}), ("log10_ratio_best_constant", {"ls": "--", "lw": 1})):
            ratio = np.array([10 ** r[column] if abs(r[column]) < np.inf else np.nan for r in mine])
            axis.plot([r[x] for r in mine], ratio, color=colour, **style)
        at = {(c[x], c["estimator"]): c["variance"] for c in checks if (c["part"], c["function"]) == (x, name)}
        pairs = [(at[p, "score_function"], at[p, "reparameterized"], p) for p, e in at if e == "score_function"]
        axis.plot([p for *_, p in pairs], [a / b if b else np.nan for a, b, _ in pairs], ".", color=colour)
    axis.axhline(1, color="black", lw=1.6)
    axis.set(yscale="log", xscale="log" if x == "dimension" else "linear", ylabel="variance ratio")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, handlelength=1.2, labelspacing=0.2, borderpad=0.1)
