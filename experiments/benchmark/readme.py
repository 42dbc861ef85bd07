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
    written |= {"numbers": _numbers(rows)} if all(of[name] for name in ("draws", "steps", "measuring")) else {}
    return written | ({"gpu": gpu_table(json.loads(GPU.read_text(encoding="utf-8")))} if GPU.exists() else {})


def _numbers(rows: Rows) -> str:
    """The five numbers that matter to a user, each with the command that measures it."""

    def ratios(section: str, *words: str) -> str:
        found = [r["times"] for r in rows if r["section"] == section and all(w in r["contender"] for w in words)]
        ends = sorted({number(min(found), 2), number(max(found), 2)}, key=float) if found else ["not measured"]
        return " to ".join(ends)

    of = lambda section: f"`python -m experiments.benchmark --sections {section}`"
    rate = max(r["rate"] for r in rows if r["section"] == "draws" and r["contender"] == "rgrad")
    lines = [
        ["draws a second", number(rate, 2), of("draws")],
        ["times as fast as NumPy on two threads", ratios("draws", "numpy threads"), of("draws")],
        ["an optimiser step: times as fast as the same step written by hand", ratios("steps", "by hand"), of("steps")],
        ["... as NumPyro's `Trace_ELBO`", ratios("steps", "Trace_ELBO"), of("steps")],
        ["`measure` of a network's gradient: times as fast as a loop that only makes the gradients",
         ratios("measuring", "measure,"), of("measuring")],
    ]  # fmt: skip
    return markdown(["", "", "command"], lines, ["command"])


def _draws(rows: Rows) -> str:
    numbers, contenders = (list(dict.fromkeys(r[name] for r in rows)) for name in ("n", "contender"))
    at = {(r["contender"], r["n"]): number(r["times"], 3) for r in rows}
    lines = [[name, *(at.get((name, n), "") for n in numbers)] for name in contenders[1:]]
    return markdown(["contender", *(f"n = {n:,}" for n in numbers)], lines)


def _ratios(rows: Rows) -> str:
    lines = [[r["contender"], number(r["times"], 3)] for r in rows[1:]]
    return markdown(["contender", "speed-up of rgrad"], lines)


WRITERS: dict[str, Callable[[Rows], str]] = {
    "draws": _draws,
    "fit": _ratios,
    "sweep": _ratios,
    "svi": _ratios,
    "steps": _ratios,
    "peers": _ratios,
    "compile": _ratios,
    "calls": _ratios,
    "measuring": _ratios,
}


def gpu_table(record: dict[str, Any]) -> str:
    """The rates of a run on a GPU, from the contents of gpu.json, in 1e9 draws a second."""
    torch = record["PyTorch"]
    rows = {
        "`rgrad.measure`": lambda n: record["measure"].get(f"N = {n}, as it chooses"),
        "stock JAX, streamed by `lax.scan`": lambda n: record["stock JAX"].get(f"{n} scan"),
        "PyTorch, eager": lambda n: torch.get(f"{n} eager", {}).get("rate"),
        "PyTorch, compiled": lambda n: torch.get(f"{n} compiled", {}).get("rate"),
    }
    numbers = (10, 100, 1_000, 100_000)
    cell = lambda rate: f"{rate / 1e9:.0f}" if rate else ""
    lines = [[name, *(cell(rate(n)) for n in numbers)] for name, rate in rows.items()]
    versions = record["versions"]
    head = f"{record['device']['kind']}, jax {versions['jax']}" + (f", PyTorch {versions['torch']}" if torch else "")
    return markdown([head, *(f"n = {n:,}" for n in numbers)], lines)
