"""The tables of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number
from experiments.discrete.settings import DiscreteSettings

SURE = 4.0  # standard errors beyond which a bias is shown


def readme_tables(rows: list[dict[str, Any]], settings: DiscreteSettings) -> dict[str, str]:
    """Every estimator at the last target, in a table for each problem."""
    return {name: _table([r for r in rows if r["problem"] == name], settings) for name in settings.problems}


def _table(rows: list[dict[str, Any]], settings: DiscreteSettings) -> str:
    lines = [
        [
            r["estimator"], f"{r['evaluations']:,}", _bias(r), number(r["variance"], 2), number(r["excess_loss"], 2),
        ]
        for r in rows if r["target"] == settings.targets[-1]
    ]  # fmt: skip
    return markdown(["estimator", "f evaluations", "bias", "variance", "excess loss"], lines)


def _bias(row: dict[str, Any]) -> str:
    """The bias in percent of the gradient, if it differs significantly from 0."""
    if abs(row["bias"]) <= SURE * row["standard_error"] + 1e-6 * abs(row["exact_mean"]):
        return "none"
    return f"**{row['bias'] / row['exact_mean']:+.0%}**" if row["exact_mean"] else number(row["bias"], 2)
