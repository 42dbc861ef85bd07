"""The tables of this experiment's README."""

from collections.abc import Callable
from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number

Rows = list[dict[str, Any]]


def readme_tables(rows: Rows) -> dict[str, str]:
    """For each section that was run: how many times as fast as the others rgrad is."""
    of = {name: [r for r in rows if r["section"] == name] for name in WRITERS}
    return {name: write(of[name]) for name, write in WRITERS.items() if of[name]}


def _draws(rows: Rows) -> str:
    numbers, contenders = (list(dict.fromkeys(r[name] for r in rows)) for name in ("n", "contender"))
    at = {(r["contender"], r["n"]): number(r["times"], 3) for r in rows}
    lines = [[name, *(at.get((name, n), "") for n in numbers)] for name in contenders[1:]]
    return markdown(["contender", *(f"n = {n:,}" for n in numbers)], lines)


def _ratios(rows: Rows) -> str:
    lines = [[r["contender"], number(r["times"], 3)] for r in rows[1:]]
    return markdown(["contender", "speed-up of rgrad"], lines)


WRITERS: dict[str, Callable[[Rows], str]] = {"draws": _draws, "fit": _ratios, "sweep": _ratios}
