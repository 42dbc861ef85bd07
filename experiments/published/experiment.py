"""Does this library reproduce published values? Each published value next to ours, with the difference."""

import math
from typing import Any

import jax

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.common.tables import number, print_table
from experiments.published.figure import draw_figure
from experiments.published.readme import readme_tables
from experiments.published.settings import LIMIT, PublishedSettings
from experiments.published.sources import RUN


def run(settings: PublishedSettings) -> int:
    def study(advance: Advance) -> Outcome:
        rows = []
        for source in settings.sources:
            # The key of a source does not depend on which other sources are selected.
            key = jax.random.fold_in(jax.random.key(settings.seed), list(RUN).index(source))
            rows += RUN[source](settings, key, advance)
        return Outcome(rows, lambda: draw_figure(rows, LIMIT), lambda: report(rows), tables=readme_tables(rows))

    return recorded(settings, "published", len(settings.sources), "measuring", study)


def report(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints a table for each source and the verdict. Returns the rows that disagree."""
    header = ["quantity", "estimator", "d/d", "published", "+-", "ours", "95 % interval", "z"]
    for source in dict.fromkeys(row["source"] for row in rows):
        lines = [
            [
                r["quantity"], r["estimator"], r["parameter"], number(r["published"]), number(r["published_error"], 2),
                number(r["ours"]), f"[{number(r['low'])}, {number(r['high'])}]", f"{r['z']:+.2f}",
            ]
            for r in rows if r["source"] == source
        ]  # fmt: skip
        print_table(header, lines, source)
    disagree = [r for r in rows if not abs(r["z"]) <= LIMIT]  # so that nan disagrees
    worst = max((abs(r["z"]) for r in rows if math.isfinite(r["z"])), default=math.nan)
    print(
        f"{len(rows)} published values, {len(disagree)} disagree (|z| > {LIMIT:g}); the largest finite |z| is {worst:.2f}"
    )
    for r in disagree:
        print(
            f"disagrees: {r['source']}: {r['quantity']}, {r['estimator']}, d/d {r['parameter']}: published "
            f"{number(r['published'])}, ours {number(r['ours'])} [{number(r['low'])}, {number(r['high'])}], z = {r['z']:+.1f}"
        )
    return disagree
