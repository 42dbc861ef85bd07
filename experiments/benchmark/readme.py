"""The tables of this experiment's README."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number

Rows = list[dict[str, Any]]
GPU = Path(__file__).parent / "gpu.json"


def readme_tables(rows: Rows) -> dict[str, str]:
    """For each section that was run: how many times as fast as the others rgrad is; and the record of a GPU."""
    of = {name: [r for r in rows if r["section"] == name] for name in WRITERS}
    written = {name: write(of[name]) for name, write in WRITERS.items() if of[name]}
    return written | ({"gpu": _gpu()} if GPU.exists() else {})


def _draws(rows: Rows) -> str:
    numbers, contenders = (list(dict.fromkeys(r[name] for r in rows)) for name in ("n", "contender"))
    at = {(r["contender"], r["n"]): number(r["times"], 3) for r in rows}
    lines = [[name, *(at.get((name, n), "") for n in numbers)] for name in contenders[1:]]
    return markdown(["contender", *(f"n = {n:,}" for n in numbers)], lines)


def _ratios(rows: Rows) -> str:
    lines = [[r["contender"], number(r["times"], 3)] for r in rows[1:]]
    return markdown(["contender", "speed-up of rgrad"], lines)


WRITERS: dict[str, Callable[[Rows], str]] = {"draws": _draws, "fit": _ratios, "sweep": _ratios}


def _gpu() -> str:
    """What gpu.json holds of a run on a GPU, in 1e9 draws a second."""
    record = json.loads(GPU.read_text(encoding="utf-8"))
    rows = {
        "`rgrad.measure`": lambda n: record["measure"][f"N = {n}, as it chooses"],
        "stock JAX, streamed by `lax.scan`": lambda n: record["stock JAX"][f"{n} scan"],
        "PyTorch, eager": lambda n: record["PyTorch"][f"{n} eager"]["rate"],
        "PyTorch, compiled": lambda n: record["PyTorch"][f"{n} compiled"]["rate"],
    }
    numbers = (10, 100, 1_000, 100_000)
    lines = [[name, *(f"{rate(n) / 1e9:.0f}" for n in numbers)] for name, rate in rows.items()]
    return markdown(["", *(f"n = {n:,}" for n in numbers)], lines)
