"""The table of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number
from experiments.elbo.settings import ElboSettings


def readme_tables(rows: list[dict[str, Any]], settings: ElboSettings) -> dict[str, str]:
    """The variance of d/d mu at the largest D, with a column for each distance."""
    at = {
        (f"{r['estimator']}/{r['entropy']}", r["distance"]): number(r["value"], 3)
        for r in rows
        if (r["part"], r["q"], r["quantity"], r["dimension"])
        == ("variance", settings.phi, "mu", max(settings.dimensions))
    }
    lines = [[name, *(at.get((name, d), "") for d in settings.distances)] for name in settings.estimators]
    return {"variances": markdown(["estimator/entropy", *(f"off by {d:g}" for d in settings.distances)], lines)}
