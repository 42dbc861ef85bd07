"""Rewrites the tables that no measurement is needed for: python -m experiments.readme

The list of estimators in the README of the project, and the gallery of experiments/README.md.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

import rgrad
from experiments.common.readme import HOME, README, entries, markdown, with_tables

WIDTH = 240  # of a picture in the gallery, in pixels
SAMPLES = 10


def examples() -> dict[str, Any]:
    """One scalar distribution of each sort, by name."""
    return {
        "Normal": dist.Normal(0.0, 1.0),
        "Gamma": dist.Gamma(2.0, 1.0),
        "Poisson": dist.Poisson(1.0),
        "Bernoulli": dist.Bernoulli(logits=0.0),
        "Categorical": dist.Categorical(logits=jnp.zeros(3)),
        "OneHot": rgrad.OneHotCategorical(logits=jnp.zeros(3)),
    }


def estimators_table() -> str:
    """`rgrad.ESTIMATORS`: what each applies to, what it costs, and what is known of it."""
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
    """The experiments: picture, question and answer, command and time."""
    lines = []
    for e in entries():
        link = f"{e.name}/{README}"
        picture = f'[<img src="{e.name}/figure.png" alt="{e.name}" width="{WIDTH}">]({link})' if e.picture else ""
        lines.append([picture, f"**[{e.question}]({link})** {e.answer}", f"`{e.command}`", e.duration])
    return markdown(["picture", "question", "command", "time"], lines, ["question", "command"])


def written() -> dict[Path, str]:
    """The files with these tables, and their new text."""
    tables = {HOME.parent / README: {"estimators": estimators_table()}, HOME / README: {"experiments": gallery()}}
    return {path: with_tables(path.read_text(encoding="utf-8"), of) for path, of in tables.items()}


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")
