"""The table of this experiment's README."""

from typing import Any

from experiments.bounds.settings import RESOLVED, BoundsSettings
from experiments.common.readme import markdown
from experiments.common.tables import number


def readme_tables(rows: list[dict[str, Any]], settings: BoundsSettings) -> dict[str, str]:
    """The signal-to-noise ratio of d/d b, with a column for each K."""
    ratio = lambda r: "noise" if r["snr"] < RESOLVED * r["floor"] else number(r["snr"], 3)
    at = {(r["perturbation"], r["estimator"], r["k"]): ratio(r) for r in rows if r["parameter"] == "b"}
    lines = [
        [f"{distance:g}", estimator, *(at.get((distance, estimator, k), "") for k in settings.k)]
        for distance in settings.perturbations
        for estimator in settings.estimators
    ]
    return {"ratios": markdown(["within", "estimator", *(f"K = {k}" for k in settings.k)], lines, ["estimator"])}
