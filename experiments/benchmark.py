"""How fast is it, beside NumPy, PyTorch, stock JAX and C? Everything in one run, in turn, with the results checked.

python -m experiments.benchmark
"""

import json
import time
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from experiments.errors import UsageError
from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Common

Section = Literal["draws", "growth", "dimension", "fit", "sweep", "cold", "precision"]
Rival = Literal[
    "numpy loop", "numpy threads", "torch eager", "torch.func", "torch.compile", "jax naive", "jax streamed", "C"
]
Samples = Annotated[int, Field(ge=1, le=2**24)]
Draws = Annotated[int, Field(ge=100_000, le=2**43)]
Dimension = Annotated[int, Field(ge=1, le=2**16)]


class Benchmark(Common):
    """Ratios of speed, measured side by side: medians of rounds in which each contender has its turn.

    A draw is one normal number of which one score-function and one reparameterized gradient of E[x^2], x ~ N(2, 1), are
    made; means and variances of both are kept over replicates of N draws each.
    """

    sections: Annotated[tuple[Section, ...], Field(min_length=1), ONCE] = (
        "draws",
        "growth",
        "dimension",
        "fit",
        "sweep",
        "cold",
        "precision",
    )
    """Which of draws, growth (time and memory from few draws to many), dimension, fit, sweep, cold and precision."""
    rivals: Annotated[tuple[Rival, ...], ONCE] = get_args(Rival)
    """Which others; those that are not installed here are left out, with a word."""
    sizes: Annotated[tuple[Samples, ...], Field(min_length=1), ONCE] = (10, 100, 1_000, 10_000, 100_000)
    """N of the section draws, integers."""
    growth: Annotated[tuple[Draws, ...], Field(min_length=1), ONCE] = (
        1_000_000,
        10_000_000,
        100_000_000,
        1_000_000_000,
        10_000_000_000,
    )
    """How many draws, integers, at N = 1,000."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1), ONCE] = (1, 10, 100, 1_000)
    """D of the section dimension, integers."""
    steps: Annotated[int, Field(ge=200, le=2**24)] = 2_000
    """Of a fit, an integer."""
    fits: Annotated[int, Field(ge=10, le=2**20)] = 1_000
    """How many fits at once by each of two estimators, an integer."""
    cells: Annotated[int, Field(ge=3, le=2**24)] = 200
    """Of the section sweep, an integer; each of 1e6 draws."""
    precision: Annotated[int, Field(ge=1_000, le=2**43)] = 1_000_000_000
    """How many draws precision is measured over, an integer."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 5
    """How many times each contender has its turn, an integer."""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.15
    """Of each turn in the sections draws and dimension, about; of one in fit at least."""


TITLES = {
    "draws": "draws: times as fast as the other",
    "growth": "growth, N = 1,000",
    "dimension": "dimension: times as fast as the other",
    "fit": "fits: times as fast as the other",
    "sweep": "sweep: times as fast as the other",
    "cold": "a cold start",
    "precision": "precision",
}
NOTES = {
    "draws": "brackets: quartiles of {rounds} rounds; under 1 the other is faster",
    "growth": "the time of a draw in units of the last line's; by how much the peak of memory has grown since the first",
    "dimension": "a sum of squares in D dimensions, 100 draws a gradient, the moments of every coordinate",
    "fit": "{fits:,} fits at once of {steps:,} steps by each of two estimators, by rgrad in a thread each",
    "sweep": "{cells:,} cells of 1e6 draws each; compilation is left out, but where each cell is compiled",
    "cold": "a fresh process, from its first import on, in units of import jax; with the programs of an earlier one kept on disk",
    "precision": "moments streamed in 32 bits of {precision:,} draws, 10 a gradient, beside the same draws in 64 bits",
}
UNITS = {"draws": "draws", "dimension": "coordinates", "fit": "steps", "sweep": "cells"}


def run(settings: Benchmark) -> None:
    if settings.float_width != 32:
        raise UsageError("--float-width 64: the contenders are written for 32 bits; leave it out")
    start(settings.float_width)
    import numpyro

    from experiments.benchmark_figure import draw_figure
    from experiments.benchmark_processes import cold_section, growth_section
    from experiments.benchmark_task import (
        dimension_section,
        draws_section,
        fit_section,
        machine,
        precision_section,
        sweep_section,
    )
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    numpyro.enable_validation(False)  # the parameters are our own
    left_out: dict[str, str] = {}
    sections: dict[str, Any] = {
        "draws": (lambda advance: draws_section(settings, left_out, advance), len(settings.sizes)),
        "growth": (lambda advance: growth_section(settings, advance), 1),
        "dimension": (lambda advance: dimension_section(settings, advance), len(settings.dimensions)),
        "fit": (lambda advance: fit_section(settings, left_out, advance), 1),
        "sweep": (lambda advance: sweep_section(settings, advance), 1),
        "cold": (lambda advance: cold_section(settings, advance), 1),
        "precision": (lambda advance: precision_section(settings, advance), 1),
    }
    with output_folder(settings.out, "benchmark") as folder:
        rows: list[dict[str, Any]] = []
        with progress(sum(sections[name][1] for name in settings.sections), "measuring in turn") as advance:
            for section in settings.sections:
                rows += sections[section][0](advance)
        files = result_files("benchmark", settings, rows, time.monotonic() - began)
        result = json.loads(files["result.json"])
        result["provenance"] |= {"machine": machine(), "left_out": left_out}
        files["result.json"] = (json.dumps(result, indent=2) + "\n").encode()
        files |= draw_figure(rows, machine())
        report(rows, settings)
        for name, why in left_out.items():
            print(f"left out: {name}: {why}")
        print(f"on {machine()['cpu']}, {machine()['cores']} cores; device: {machine()['device']}")
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")


def times(r: dict[str, Any]) -> str:
    """A ratio, and its quartiles."""
    return f"{number(r['times'], 3)} [{number(r['times_low'], 2)}, {number(r['times_high'], 2)}]"


def report(rows: list[dict[str, Any]], settings: Benchmark) -> None:
    for section in TITLES:
        mine = [r for r in rows if r["section"] == section]
        if not mine:
            continue
        title = TITLES[section]
        if section in ("draws", "dimension"):
            sizes = list(dict.fromkeys(r["size"] for r in mine))
            at = {(r["contender"], r["size"]): r for r in mine}
            names = list(dict.fromkeys(r["contender"] for r in mine))
            lines = [[f"{names[0]}: {UNITS[section]} a second", *(number(at[names[0], n]["rate"], 2) for n in sizes)]]
            lines += [[name, *(times(at[name, n]) if (name, n) in at else "-" for n in sizes)] for name in names[1:]]
            print_table(["contender", *(f"{'N' if section == 'draws' else 'D'} = {n:,}" for n in sizes)], lines, title)
        elif section == "growth":
            lines = [[f"{r['size']:,}", times(r), f"{r['megabytes']:.1f} MB"] for r in mine]
            print_table(["draws", "time of a draw", "memory"], lines, title)
        elif section == "precision":
            print_table(
                ["moment", "relative error"],
                [[r["contender"], number(r["error"], 2)] for r in mine],
                title,
            )
        elif section == "cold":
            print_table(["until", "ratio"], [[r["contender"], times(r)] for r in mine], title)
        else:
            first = [f"{mine[0]['contender']}: {UNITS[section]} a second", number(mine[0]["rate"], 2)]
            print_table(["contender", "ratio"], [first, *([r["contender"], times(r)] for r in mine[1:])], title)
        print(NOTES[section].format(**settings.model_dump()), end="\n\n")


if __name__ == "__main__":
    command(Benchmark, run)
