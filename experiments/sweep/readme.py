"""The table of this experiment's README."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number


def readme_tables(summary: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each n and estimator: the range of the variance over the cells, and in how many cells it is the smallest."""
    parameter = summary[0]["parameter"]
    lines = [
        [
            row["estimator"], str(row.get("n", "")), f"{row['cells']:,}", number(row["lowest"], 3),
            number(row["highest"], 3), f"{row['best']:,}",
        ]
        for row in summary if row["parameter"] == parameter
    ]  # fmt: skip
    header = ["estimator", "n", "cells", "smallest variance", "largest variance", "best in"]
    return {"cells": markdown(header, lines)}
