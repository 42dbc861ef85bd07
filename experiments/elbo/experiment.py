"""The ELBO of location-scale families: checks of the equations in Aziz's notes, and the noise of its gradient as D grows."""

from typing import Any

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.errors import UsageError
from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded
from experiments.common.tables import number, print_table
from experiments.elbo.checks import check_rows
from experiments.elbo.figure import draw_figure
from experiments.elbo.readme import readme_tables
from experiments.elbo.settings import SHOWN, ElboSettings
from experiments.elbo.study import family_case, load_way, location_scale_cases, measured_rows, ways_that_apply


def run(settings: ElboSettings) -> int:
    with validation_enabled(False):  # validation takes seconds at every trace
        ways = {name: load_way(name) for name in settings.estimators}
        family_ways = {name: load_way(name, "--family-estimators") for name in settings.family_estimators}
        located = location_scale_cases(settings)
        for _, case in located:
            if refused := ways_that_apply(case, ways, settings.num_samples, "--estimators")[1]:
                raise UsageError(f"--estimators {next(iter(refused.values()))}")
        families = [family_case(name, settings) for name in settings.families]
        apply = [ways_that_apply(case, family_ways, settings.num_samples, "--family-estimators") for case in families]
    left_out = {reason for _, refused in apply for reason in refused.values()}
    ends = {min(settings.dimensions), max(settings.dimensions)}

    def study(advance: Advance) -> Outcome:
        rows: list[dict[str, Any]] = []
        key = jax.random.key(settings.seed)
        for target in (target for target, case in located if case.dimension in ends):
            rows += check_rows(settings.target, target, settings.phi, settings.seed)
            advance(1)
        for i, (_, case) in enumerate(located):
            rows += measured_rows(case, ways, settings, jax.random.fold_in(key, i), advance)
        for i, (case, (kept, _)) in enumerate(zip(families, apply, strict=True)):
            rows += measured_rows(case, kept, settings, jax.random.fold_in(key, 1000 + i), advance)
        figure = lambda: draw_figure(rows, settings)
        return Outcome(rows, figure, lambda: report(rows, settings, left_out), tables=readme_tables(rows, settings))

    work = len(ends) + len(located) + len(families)
    return recorded(settings, "elbo", work, "checking and measuring", study)


def report(rows: list[dict[str, Any]], settings: ElboSettings, left_out: set[str]) -> list[dict[str, Any]]:
    """Prints the tables and the verdict. Returns the rows that do not hold."""
    largest = max(settings.dimensions)
    lines = [
        [
            r["q"], r["quantity"], number(r["value"], 8), number(r["reference"], 8), number(r["difference"], 2),
            "-" if r["low"] is None else f"[{number(r['low'], 2)}, {number(r['high'], 2)}]", "yes" if r["holds"] else "NO",
        ]
        for r in rows if r["part"] == "equation" and r["dimension"] == largest
    ]  # fmt: skip
    header = ["q", "equation", "left", "right", "difference", "95 % interval", "holds"]
    others = "" if len(settings.dimensions) == 1 else f" (D = {min(settings.dimensions)} is in table.csv)"
    print_table(
        header,
        lines,
        f"target {settings.target}, D = {largest}{others}; the difference is relative if nothing is sampled",
    )
    for q in (settings.phi, *settings.families):
        mine = [r for r in rows if r["part"] in ("variance", "mean") and r["q"] == q]
        if q == settings.phi:
            _print_variances([r for r in mine if r["dimension"] == largest], settings)
        else:
            _print_variances([r for r in mine if r["distance"] in SHOWN], settings)
    for reason in sorted(left_out):
        print(f"left out: {reason}")
    print(
        "for z = mu + C eps, the sampled and the exact entropy give the same reparameterized gradient, sample by sample: "
        "(6a) = (6h) above"
    )
    judged = [r for r in rows if r["holds"] is not None]
    wrong = [r for r in judged if not r["holds"]]
    print(f"{len(judged)} equations and means of estimates checked, {len(wrong)} do not hold")
    for r in wrong:
        who = f", {r['estimator']}/{r['entropy']} at distance {r['distance']:g}" if r["estimator"] else ""
        print(
            f"does not hold: {r['part']}, {r['q']}, D = {r['dimension']}, {r['quantity']}{who}: {number(r['value'], 8)} "
            f"(expected {number(r['reference'], 8)}), off by {number(r['difference'])}, at most {number(r['allowed'])} is allowed"
        )
    return wrong


def _print_variances(rows: list[dict[str, Any]], settings: ElboSettings) -> None:
    """Prints a line for each distance and estimator: the mean ELBO, and the variance of each block."""
    blocks = list(dict.fromkeys(r["quantity"] for r in rows))
    table: dict[tuple[float, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for r in rows:
        way = f"{r['estimator']}/{r['entropy']}"
        table.setdefault((r["distance"], way), {})[r["part"], r["quantity"]] = r
    lines = []
    for (distance, way), cells in table.items():
        elbo = cells["mean", "elbo"]
        half = (elbo["high"] - elbo["low"]) / 2
        line = [way, f"{distance:g}", f"{number(elbo['value'], 5)} +- {number(half, 2)}", number(elbo["reference"], 5)]
        for block in blocks[1:]:
            v = cells["variance", block]
            line.append(f"{number(v['value'], 3)} [{number(v['low'], 3)}, {number(v['high'], 3)}]")
        lines.append(line)
    r = rows[0]
    header = ["estimator/entropy", "distance", "ELBO", "exact", *(f"variance of d/d {block}" for block in blocks[1:])]
    title = (
        f"q = {r['q']}, target {r['target']}, D = {r['dimension']}: estimates from {settings.num_samples} samples, over "
        f"{settings.replicates:,} pairs; 95 % intervals"
    )
    print_table(header, lines, title)
