"""Rewrites the tables that need no measurement: python -m experiments.readme

These are the table of estimators in rgrad/ESTIMATORS.md, the list of experiments in experiments/README.md, and the list of
tutorials.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

import rgrad
from experiments.common.readme import HOME, README, entries, markdown, with_tables
from experiments.common.tutorials import FOLDER, listed_tutorials

WIDTH = 240  # of a picture in the gallery, in pixels
SAMPLES = 10


def examples() -> dict[str, Any]:
    """One scalar distribution of each kind, by name."""
    return {
        "Normal": dist.Normal(0.0, 1.0),
        "Gamma": dist.Gamma(2.0, 1.0),
        "Poisson": dist.Poisson(1.0),
        "Bernoulli": dist.Bernoulli(logits=0.0),
        "Categorical": dist.Categorical(logits=jnp.zeros(3)),
        "OneHot": rgrad.OneHotCategorical(logits=jnp.zeros(3)),
    }


def estimators_table() -> str:
    """One row for each of `rgrad.ESTIMATORS`: the distributions that it applies to, its cost and its properties."""
    lines, known = [], examples()
    for row in rgrad.ESTIMATORS.values():
        applies = {name: row.applies(q) for name, q in known.items()}
        first = next((known[name] for name in applies if applies[name]), None)
        cost = "" if first is None else f"{row.evaluations(first, SAMPLES):,}"
        order = "all" if row.order is None else {1: "first"}.get(row.order, str(row.order))
        marks = ("yes" if applies[name] else "" for name in known)
        lines.append([f"`{row.name}`", *marks, cost, order, "**yes**" if row.biased else ""])
    header = ["estimator", *known, f"f evaluations, n = {SAMPLES}", "derivatives", "biased"]
    return markdown(header, lines)


def gallery() -> str:
    """One row for each experiment: picture, question and answer, command, time."""
    lines = []
    for e in entries():
        link = f"{e.name}/{README}"
        picture = f'[<img src="{e.name}/figure.png" alt="{e.name}" width="{WIDTH}">]({link})' if e.picture else ""
        lines.append([picture, f"**[{e.question}]({link})** {e.answer}", f"`{e.command}`", e.duration])
    return markdown(["picture", "question", "command", "time"], lines, ["question", "command"])


def written() -> dict[Path, str]:
    """Maps each file that has one of these tables to its new text."""
    tables = {
        HOME.parent / "rgrad" / "ESTIMATORS.md": {"estimators": estimators_table()},
        HOME / README: {"experiments": gallery()},
        FOLDER / README: {"tutorials": listed_tutorials()},
    }
    return {path: with_tables(path.read_text(encoding="utf-8"), of) for path, of in tables.items()}


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")
