"""Does a tighter bound give a better gradient? The signal-to-noise ratio against K, near the optimum and far from it."""

from typing import Any

import jax

from experiments.bounds.figure import draw_figure
from experiments.bounds.readme import readme_tables
from experiments.bounds.settings import RESOLVED, BoundsSettings
from experiments.bounds.study import measured_rows
from experiments.common.errors import UsageError
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.common.tables import number, print_table


def run(settings: BoundsSettings) -> int:
    if "vimco" in settings.estimators and 1 in settings.k:
        raise UsageError("--k: vimco needs another sample for its baseline; give K of at least 2")

    def study(advance: Advance) -> Outcome:
        rows = measured_rows(settings, jax.random.key(settings.seed), advance)
        figure = lambda: draw_figure(rows, RESOLVED)
        return Outcome(rows, figure, lambda: report(rows, settings), tables=readme_tables(rows, settings))

    return recorded(settings, "bounds", sum(settings.k), "measuring", study)


def report(rows: list[dict[str, Any]], settings: BoundsSettings) -> None:
    """Prints a table for each distance: the ratios, with a column for each K."""
    for distance in settings.perturbations:
        lines: dict[tuple[str, str], list[str]] = {}
        for r in rows:
            if r["perturbation"] == distance:
                mark = "~" if r["snr"] < RESOLVED * r["floor"] else ""
                line = lines.setdefault((r["parameter"], r["estimator"]), [])
                line.append(f"{mark}{number(r['snr'], 3)} +- {number((r['snr_high'] - r['snr_low']) / 2, 1)}")
        print_table(
            ["d/d", "estimator", *(f"K = {k:,}" for k in settings.k)],
            [[*names, *line] for names, line in lines.items()],
            f"signal-to-noise ratio and its 95 % interval, parameters within {distance:g} of the optimum",
        )
    print(
        f"~ below twice the noise floor of {settings.replicates:,} replicates, {rows[0]['floor']:.2g}: mostly noise, "
        "only an upper bound"
    )
    norms = {(r["estimator"], r["perturbation"], r["k"]): r["norm"] for r in rows if r["parameter"] == "A"}
    k = max(settings.k)
    for distance in settings.perturbations:
        biased, right = (norms.get((name, distance, k)) for name in ("sticking_the_landing", "doubly_reparameterized"))
        if k > 1 and biased and right:
            print(
                f"sticking_the_landing is biased: within {distance:g} of the optimum, at K = {k:,}, its mean gradient "
                f"for A is {number(biased / right, 3)} times as long as the correct one"
            )
