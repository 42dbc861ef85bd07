"""How much noisier is REINFORCE than the reparameterization trick on this problem, and can I trust the number?"""

from collections.abc import Mapping
from typing import Any

import jax

from experiments.common.measuring import Measured, prepare, to_rows
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.common.tables import number, print_table
from experiments.variance.figure import draw_figure
from experiments.variance.readme import readme_tables
from experiments.variance.settings import VarianceSettings


def run(settings: VarianceSettings) -> int:
    task = prepare(settings, settings.problem, settings.estimators, settings.num_samples)

    def study(advance: Advance) -> Outcome:
        measured = []
        for n in settings.num_samples:
            # The key of each n depends only on the seed and n.
            key = jax.random.fold_in(jax.random.key(settings.seed), n)
            measured.append(task.measure(key, n, settings.replicates, advance))
        rows = to_rows(task, measured)
        return Outcome(
            rows,
            lambda: draw_figure(rows, settings.problem),
            lambda: report(rows, measured, task.left_out, settings),
            tables=readme_tables(rows, settings),
        )

    return recorded(settings, "variance", float(sum(settings.num_samples)) * settings.replicates, "measuring", study)


def report(
    rows: list[dict[str, Any]], measured: list[Measured], left_out: Mapping[str, str], settings: VarianceSettings
) -> None:
    """Prints the measured and the exact values."""
    base = {(r["parameter"], r["n"]): r["variance"] for r in rows if r["estimator"] == "reparameterized"}
    weak = {key for m in measured for key in m.weak}
    lines = []
    for r in rows:
        reference = base.get((r["parameter"], r["n"]))
        ratio = r["variance"] / reference if reference else None
        mark = "~" if (r["estimator"], r["parameter"], r["n"]) in weak else ""
        lines.append([
            r["estimator"], r["parameter"], f"{r['n']:,}", number(r["mean"], 5), number(r["exact_mean"], 5),
            number(r["variance"]), f"{mark}[{number(r['variance_low'])}, {number(r['variance_high'])}]",
            number(r["exact_variance"]), number(ratio, 3),
        ])  # fmt: skip
    header = ["estimator", "d/d", "n", "mean", "exact", "variance", "95 % interval", "exact", "/ reparam."]
    print_table(header, lines, f"{settings.problem}: {settings.replicates:,} gradient estimates from n samples")
    if weak:
        print(
            "~ tails too heavy for this many replicates: the interval covers less than 95 % (about 90 % at 60 degrees of "
            "freedom of the variance); use more --replicates"
        )
    if any(r["exact_variance"] is None for r in rows):
        print("- unknown: quadrature did not converge, or does not exist for this distribution or estimator")
    for why in left_out.values():
        print(f"left out: {why}")
