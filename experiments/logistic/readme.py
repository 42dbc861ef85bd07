"""The tables of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown, plus_minus
from experiments.common.tables import number
from experiments.logistic.settings import LogisticSettings


def readme_tables(rows: list[dict[str, Any]], settings: LogisticSettings) -> dict[str, str]:
    """Two tables: the ELBO of each estimator at its best rate, and the fits to all rows, compared with NUTS."""
    best = [r for r in rows if r["chosen"]]
    compared = {(r["estimator"], r["family"]): r for r in best if r["data"] == best[0]["data"]}
    cell = lambda r: "" if r is None else plus_minus(r["elbo"], (r["elbo_high"] - r["elbo_low"]) / 2)
    elbo = [
        [estimator, *(cell(compared.get((estimator, family))) for family in settings.families)]
        for estimator in settings.estimators
    ]
    whole = [
        [
            r["family"], cell(r), f"{r['accuracy']:.4f}", number(r["nuts_distance"], 2),
            "-" if r["sd_ratio_low"] is None else f"{r['sd_ratio_low']:.2f} to {r['sd_ratio_high']:.2f}",
        ]
        for r in best if r["data"] == "all"
    ]  # fmt: skip
    header = ["q", "ELBO", "accuracy", "furthest mean from NUTS's, in its sd", "sd over NUTS's"]
    return {"elbo": markdown(["estimator", *settings.families], elbo), "all_rows": markdown(header, whole)}
