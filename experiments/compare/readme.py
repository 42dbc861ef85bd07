"""The table of this experiment's README."""

import rgrad
from experiments.common.readme import markdown
from experiments.common.tables import number


def readme_tables(comparison: rgrad.Comparison) -> dict[str, str]:
    """A row for each estimator, for the first parameter. Below it, the recommendation."""
    rows = comparison.rows[:: len(comparison.rows) // len(comparison.totals)]
    said = {True: lambda r: "**yes**", None: lambda r: "cannot tell", False: _no}
    lines = [[r["estimator"], number(r["mean"]), number(r["variance"], 3), said[r["biased"]](r)] for r in rows]
    table = markdown(["estimator", "mean", "variance", "biased?"], lines, ["biased?"])
    return {"estimators": f"{table}\n\n> {comparison.recommendation}"}


def _no(row: dict[str, float]) -> str:
    return f"no ({number(row['smallest_bias'], 1)} would be seen)"
