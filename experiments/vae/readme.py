"""The tables of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown, plus_minus
from experiments.common.tables import number
from experiments.vae.settings import VaeSettings
from experiments.vae.study import mean_and_half


def readme_tables(rows: list[dict[str, Any]], compared: list[dict[str, Any]], settings: VaeSettings) -> dict[str, str]:
    """Two tables: the results of each estimator at the last step, and the margin of the first one."""
    ends = {
        name: [r for r in rows if (r["estimator"], r["step"]) == (name, settings.steps)] for name in settings.estimators
    }
    lines = [
        [
            name, plus_minus(*mean_and_half([r["test_elbo"] for r in end])),
            plus_minus(*mean_and_half([r["iwae"] for r in end])),
            number(mean_and_half([r["squared_error"] for r in end])[0], 3),
        ]
        for name, end in ends.items()
    ]  # fmt: skip
    margins = [
        [r["other"], r["at"], number(r["margin"], 2), f"[{number(r['low'], 2)}, {number(r['high'], 2)}]"]
        for r in compared
    ]
    header = ["estimator", "held-out ELBO", f"bound, K = {settings.bound_k:,}", "squared error of a pixel"]
    return {
        "ends": markdown(header, lines),
        "margins": markdown(["ahead of", "at equal", "margin", "95 % interval"], margins, ["at equal"]),
    }
