"""The tables of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown, plus_minus
from experiments.common.tables import number
from experiments.fit.settings import FitSettings


def readme_tables(rows: list[dict[str, Any]], settings: FitSettings) -> dict[str, str]:
    """Two tables: gradients of the first objective by two estimators, and where the fits of the first estimator end."""
    at = {(r["objective"], r["estimator"], r["parameter"]): r for r in rows}
    objectives, parameters = (list(dict.fromkeys(r[name] for r in rows)) for name in ("objective", "parameter"))
    first, shown = objectives[0], settings.estimators[:2]
    gradients = [
        [
            parameter, number(next(r for r in rows if r["parameter"] == parameter)["exact_gradient"], 5),
            *(_gradient(at[first, estimator, parameter]) for estimator in shown if (first, estimator, parameter) in at),
        ]
        for parameter in parameters
    ]  # fmt: skip
    ends = [
        [objective, *(cell for parameter in parameters[:2] for cell in _end(r, objective, parameter))]
        for objective in objectives
        if (r := [row for row in rows if row["objective"] == objective])
    ]
    header = [column for parameter in parameters[:2] for column in (parameter, f"minimiser's {parameter}")]
    return {
        "gradients": markdown(["d/d", "exact", *shown], gradients),
        "ends": markdown(["objective", *header], ends),
    }


def _gradient(row: dict[str, Any]) -> str:
    return plus_minus(row["gradient_mean"], 1.96 * row["gradient_se"])


def _end(rows: list[dict[str, Any]], objective: str, parameter: str) -> tuple[str, str]:
    """The mean over the fits of the objective's first estimator, and the minimiser."""
    row = next(r for r in rows if r["parameter"] == parameter)
    return number(row["final_mean"]), number(row["target"])
