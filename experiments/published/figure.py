"""The figure of `experiments.published`: how far each published value is from ours, a panel for each source."""

from typing import Any

import numpy as np

from experiments.common.plotting import COLOURS, figure_files, house_style, panels

HALF_BAND = 0.35  # the values of one estimator are spread over a band of twice this height


@house_style()
def draw_figure(rows: list[dict[str, Any]], limit: float) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`: z along the axis, a band for each estimator. Values beyond the limit are red crosses."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    figure, axes = panels(len(sources), 1)
    figure.set_size_inches(9, 1 + 2.2 * len(sources))
    for axis, source in zip(axes[:, 0], sources, strict=True):
        mine = [row for row in rows if row["source"] == source]
        estimators = list(dict.fromkeys(row["estimator"] for row in mine))
        for i, estimator in enumerate(estimators):
            z = np.array([row["z"] for row in mine if row["estimator"] == estimator])
            place = i + np.linspace(-HALF_BAND, HALF_BAND, len(z)) if len(z) > 1 else np.array([i])
            bad = ~(np.abs(z) <= limit)
            shown = np.clip(np.nan_to_num(z, nan=limit + 1), -limit - 1, limit + 1)
            axis.plot(shown[~bad], place[~bad], "o", ms=4, color=COLOURS[0])
            axis.plot(shown[bad], place[bad], "X", ms=8, color=COLOURS[1])
        axis.axvspan(-1.96, 1.96, color="grey", alpha=0.15, lw=0)
        for edge in (-limit, limit):
            axis.axvline(edge, color=COLOURS[1], lw=1, ls="--")
        axis.set(xlim=(-limit - 1.5, limit + 1.5), ylim=(len(estimators) - 0.4, -0.6))
        axis.set_yticks(range(len(estimators)), estimators)
        axis.set_title(source, loc="left")
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("z: ours minus published, in standard errors (grey: 95 %, dashed: the limit)", fontsize=9)
    figure.suptitle("Can the published values be reproduced?")
    return figure_files(figure)
