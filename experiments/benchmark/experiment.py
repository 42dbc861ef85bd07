"""How fast is it, compared with NumPy, PyTorch, stock JAX and C? One run, contenders in turn, every result checked."""

from typing import Any

from experiments.benchmark.calls import SIZES, calls_section
from experiments.benchmark.compilation import TASKS as COMPILE_TASKS
from experiments.benchmark.compilation import compile_section
from experiments.benchmark.figure import draw_figure
from experiments.benchmark.gpu import read_gpu
from experiments.benchmark.models import svi_section
from experiments.benchmark.peer_script import SAMPLES
from experiments.benchmark.peers import peers_section
from experiments.benchmark.processes import cold_section, growth_section
from experiments.benchmark.readme import readme_tables
from experiments.benchmark.settings import NOTES, TITLES, UNITS, BenchmarkSettings
from experiments.benchmark.sizes import measuring_section
from experiments.benchmark.steps import TASKS as STEP_TASKS
from experiments.benchmark.steps import steps_section
from experiments.benchmark.study import (
    dimension_section,
    draws_section,
    fit_section,
    machine,
    precision_section,
    sweep_section,
)
from experiments.common.errors import UsageError
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.common.tables import number, print_table


def run(settings: BenchmarkSettings) -> int:
    if settings.read is not None:
        read_gpu(settings.read)
        return 0
    if settings.float_width != 32:
        raise UsageError("--float-width 64: the contenders support only 32 bits; leave it out")
    left_out: dict[str, str] = {}
    sections: dict[str, Any] = {
        "draws": (lambda advance: draws_section(settings, left_out, advance), len(settings.num_samples)),
        "growth": (lambda advance: growth_section(settings, advance), 1),
        "dimension": (lambda advance: dimension_section(settings, advance), len(settings.dimensions)),
        "fit": (lambda advance: fit_section(settings, left_out, advance), 1),
        "sweep": (lambda advance: sweep_section(settings, advance), 1),
        "svi": (lambda advance: svi_section(settings, advance), 4),
        "steps": (lambda advance: steps_section(settings, advance), len(STEP_TASKS)),
        "peers": (lambda advance: peers_section(settings, left_out, advance), len(SAMPLES)),
        "compile": (lambda advance: compile_section(settings, advance), len(COMPILE_TASKS)),
        "calls": (lambda advance: calls_section(settings, advance), 2 * len(SIZES) + 1),
        "measuring": (lambda advance: measuring_section(settings, advance), 1),
        "cold": (lambda advance: cold_section(settings, advance), 1),
        "precision": (lambda advance: precision_section(settings, advance), 1),
    }

    def study(advance: Advance) -> Outcome:
        rows = [row for section in settings.sections for row in sections[section][0](advance)]
        provenance = {"machine": machine(), "left_out": left_out}
        figure = lambda: draw_figure(rows, machine())
        return Outcome(rows, figure, lambda: report(rows, left_out, settings), provenance, readme_tables(rows))

    work = sum(sections[name][1] for name in settings.sections)
    return recorded(settings, "benchmark", work, "measuring in turn", study)


def times(r: dict[str, Any]) -> str:
    """A ratio with its quartiles."""
    return f"{number(r['times'], 3)} [{number(r['times_low'], 2)}, {number(r['times_high'], 2)}]"


def report(rows: list[dict[str, Any]], left_out: dict[str, str], settings: BenchmarkSettings) -> None:
    for section in TITLES:
        mine = [r for r in rows if r["section"] == section]
        if not mine:
            continue
        title = TITLES[section]
        if section in ("draws", "dimension"):
            sizes = list(dict.fromkeys(r["n"] for r in mine))
            at = {(r["contender"], r["n"]): r for r in mine}
            names = list(dict.fromkeys(r["contender"] for r in mine))
            lines = [[f"{names[0]}: {UNITS[section]} per second", *(number(at[names[0], n]["rate"], 2) for n in sizes)]]
            lines += [[name, *(times(at[name, n]) if (name, n) in at else "-" for n in sizes)] for name in names[1:]]
            print_table(["contender", *(f"{'n' if section == 'draws' else 'D'} = {n:,}" for n in sizes)], lines, title)
        elif section == "growth":
            lines = [[f"{r['n']:,}", times(r), f"{r['megabytes']:.1f} MB"] for r in mine]
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
            first = [f"{mine[0]['contender']}: {UNITS[section]} per second", number(mine[0]["rate"], 2)]
            print_table(["contender", "ratio"], [first, *([r["contender"], times(r)] for r in mine[1:])], title)
        print(NOTES[section].format(**settings.model_dump()), end="\n\n")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    print(f"on {machine()['cpu']}, {machine()['cores']} cores; device: {machine()['device']}")
