"""The table of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number
from experiments.variance.settings import VarianceSettings


def readme_tables(rows: list[dict[str, Any]], settings: VarianceSettings) -> dict[str, str]:
    """The rows of the first parameter, at the smallest and the largest number of samples."""
    lines = [
        [
            r["estimator"], f"{r['n']:,}", number(r["mean"], 5), number(r["variance"]),
            f"[{number(r['variance_low'])}, {number(r['variance_high'])}]", number(r["exact_variance"]),
        ]
        for n in sorted({min(settings.num_samples), max(settings.num_samples)})
        for r in rows if r["n"] == n and r["parameter"] == rows[0]["parameter"]
    ]  # fmt: skip
    return {"variance": markdown(["estimator", "n", "mean", "variance", "95 % interval", "exact variance"], lines)}
