"""The tables of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number
from experiments.network.model import LAYERS
from experiments.network.report import bias, interval, share
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
            *(interval(at[family, name, step, largest, WHOLE], "noise_scale", largest, 2) for step in settings.steps),
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


def _variance(row: dict[str, Any]) -> str:
    return f"{number(row['variance'], 2)} ({share(row)})"
