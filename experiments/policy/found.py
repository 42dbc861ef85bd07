"""What the three parts have found, together."""

import csv
import io
from typing import NamedTuple

import numpy as np

from experiments.policy.cartpole_study import CartpoleFound
from experiments.policy.language import LanguageFound
from experiments.policy.mdp import GridFound
from experiments.policy.rows import Row
from experiments.policy.settings import PolicySettings


class PolicyFound(NamedTuple):
    """None for a part that did not run."""

    language: LanguageFound | None = None
    grid: GridFound | None = None
    cartpole: CartpoleFound | None = None

    @property
    def rows(self) -> list[Row]:
        return [row for part in (self.language, self.grid, self.cartpole) if part is not None for row in part.rows]


def curves_file(found: PolicyFound, settings: PolicySettings) -> bytes:
    """`curves.csv`: the mean over runs of every training curve, and its standard error."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["part", "estimator", "at", "mean", "standard_error", "runs"])
    curves = []
    if found.language is not None:
        for name, each in found.language.curves.items():
            curves.append(("sequences", name, np.linspace(0, settings.training_steps, each.shape[1]), each))
    if found.cartpole is not None:
        curves += [("cartpole", name, found.cartpole.steps, each) for name, each in found.cartpole.curves.items()]
    for part, name, at, each in curves:
        error = each.std(0, ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.zeros(each.shape[1])
        for x, mean, half in zip(at, each.mean(0), error, strict=True):
            writer.writerow([part, name, f"{x:.10g}", f"{mean:.8g}", f"{half:.4g}", len(each)])
    return table.getvalue().encode()
