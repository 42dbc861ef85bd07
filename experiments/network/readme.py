"""The tables of this experiment's README."""

import math
from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number
from experiments.network.model import LAYERS
from experiments.network.report import bias, share
from experiments.network.rows import Row
from experiments.network.settings import NetworkSettings
from experiments.network.study import WHOLE


def readme_tables(rows: list[Row], settings: NetworkSettings) -> dict[str, str]:
    """Three tables: the sources by layer and the variance by batch size, both after training; and the noise scales."""
    last = max(settings.steps)
    at = {(r["family"], r["estimator"], r["step"], r["batch"], r["layer"]): r for r in rows}
    names = list(dict.fromkeys((r["family"], r["estimator"]) for r in rows))
    batches = sorted({r["batch"] for r in rows})
    layers: list[list[str]] = []
    for family, name in names:
        mine = [at[family, name, last, batches[0], layer] for layer in LAYERS]
        if not any(line[0] == family for line in layers):
            layers.append([family, "the images", *(number(r["image_variance"], 2) for r in mine)])
        layers.append([family, name, *(number(batches[0] * r["estimator_variance"], 2) for r in mine)])
    by_batch = [
        [family, name, *(_variance(at[family, name, last, batch, WHOLE]) for batch in batches)]
        for family, name in names
    ]
    largest = max((b for b in batches if b < batches[-1]), default=batches[-1])
    scales = [
        [
            family, name, *("-" if (e := at[family, name, last, batches[0], WHOLE]["evaluations"]) is None else f"{e:,}",),
            bias(at[family, name, last, batches[-1], WHOLE]),
            *(_images(at[family, name, step, largest, WHOLE]) for step in settings.steps),
        ]
        for family, name in names
    ]  # fmt: skip
    header = [
        "units",
        "estimator",
        "f evaluations",
        "bias",
        *(f"noise scale, {step:,} steps" for step in settings.steps),
    ]
    return {
        "layers": markdown(["units", "source", *LAYERS], layers, ["source"]),
        "batches": markdown(["units", "estimator", *(f"B = {b:,}" for b in batches)], by_batch, ["estimator"]),
        "scales": markdown(header, scales, ["estimator"]),
    }


def _images(row: Row) -> str:
    """The noise scale in images, with its interval."""
    value, low, high = (row["batch"] * row[f"noise_scale{end}"] for end in ("", "_low", "_high"))
    return f"> {_round(low)}" if high == math.inf else f"{_round(value)} [{_round(low)}, {_round(high)}]"


def _round(x: float) -> str:
    """A number of images with two digits, written out."""
    return f"{float(f'{x:.2g}'):,.0f}"


def _variance(row: dict[str, Any]) -> str:
    return f"{number(row['variance'], 2)} ({share(row)})"
