"""The table of this experiment's README."""

from collections import Counter

from experiments.common.readme import markdown
from experiments.distributions.study import Cell

MEANING = {
    "ok": "right within its error",
    "refused": "raises an error that names the distribution",
    "nan": "nan instead of a number, for a probability of exactly 0 or 1",
    "noisy": "right within its error, but too noisy to see a bias of a fifth",
    "WRONG": "off by more than its error",
    "CRASHED": "an error that does not say what is wrong",
}


def readme_tables(found: list[Cell]) -> dict[str, str]:
    """How many cells have each verdict."""
    counts = Counter(cell.verdict for cell in found)
    lines = [[verdict, meaning, f"{counts[verdict]:,}"] for verdict, meaning in MEANING.items()]
    return {"verdicts": markdown(["verdict", "meaning", "cells"], lines, ["meaning"])}
