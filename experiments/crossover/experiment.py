"""Does the reparameterization trick always have a lower variance than REINFORCE? Maps of where it does."""

import math
from typing import Any

import jax

from experiments.common.progress import Advance
from experiments.common.record import Outcome, recorded, table_csv
from experiments.common.tables import number, print_table
from experiments.crossover.cells import families
from experiments.crossover.figure import draw_figure
from experiments.crossover.readme import readme_tables
from experiments.crossover.settings import CLOSED_FORM, LIMIT, SHOWN, VARIANCES, CrossoverSettings
from experiments.crossover.study import measured_and_exact


def run(settings: CrossoverSettings) -> int:
    family = families(settings)

    def study(advance: Advance) -> Outcome:
        found = measured_and_exact(settings, family, jax.random.key(settings.seed), advance)
        return Outcome(
            found.rows,
            lambda: draw_figure(found.rows, found.checks, settings),
            lambda: report(found, settings),
            tables=readme_tables(found.reasons),
            files={"checks.csv": table_csv(found.checks)},
        )

    return recorded(settings, "crossover", len(settings.functions), "integrating and measuring", study)


def report(found: Any, settings: CrossoverSettings) -> bool:
    """Prints the tables and the verdict. Returns whether anything disagrees."""
    _print_maps(found.rows)
    _print_reasons(found.reasons)
    _print_phis(found.rows, found.checks, settings)
    _print_dimensions(found.rows)
    return _verdict(found)


def _print_maps(rows: list[dict[str, Any]]) -> None:
    lines = []
    for function, parameter in dict.fromkeys((r["function"], r["parameter"]) for r in rows if r["part"] == "map"):
        mine = [r for r in rows if (r["part"], r["function"], r["parameter"]) == ("map", function, parameter)]
        share = lambda name: f"{sum(r[name] < r['reparameterized'] for r in mine) / len(mine):.0%}"  # noqa: B023
        count = lambda source: f"{sum(r['source'] == source for r in mine):,}"  # noqa: B023
        lines.append([
            mine[0]["r"], parameter, f"{len(mine):,}", share("score_function"), share("best_constant"), count("infinite"),
            count("measured"),
        ])  # fmt: skip
    header = ["r", "d/d", "cells", "REINFORCE wins", "with best constant", "reparam. infinite", "only measured"]
    print_table(header, lines, "share of the map in which REINFORCE has the lower variance")


def _print_reasons(reasons: list[dict[str, Any]]) -> None:
    numbers = (*VARIANCES, "r_square", "slope_square", "twice_r_curvature")
    lines = [[_text(r), *(number(r[name], 3) for name in numbers), _ratio(r)] for r in reasons]
    header = ["r", "Var(r s)", "best constant", "Var(r')", "E r^2", "E r'^2", "2 E r r''", "ratio"]
    title = "the reason: d/d mu at sigma = 1: Var(r s) - Var(r') = E r^2 + E r'^2 + 2 E r r''"
    print_table(header, lines, title)


def _print_phis(rows: list[dict[str, Any]], checks: list[dict[str, Any]], settings: CrossoverSettings) -> None:
    lines, row_at = [], {(r["function"], r["phi"]): r for r in rows if r["part"] == "phi"}
    at = {(c["function"], c["phi"], c["estimator"]): c for c in checks if c["part"] == "phi"}
    phis = list(dict.fromkeys(phi for _, phi, _ in at))
    for function, phi in dict.fromkeys((function, phi) for function, phi, _ in at):
        if phi in phis[:: -(-len(phis) // SHOWN)]:
            row = row_at[function, phi]
            both = (at[function, phi, e] for e in ("score_function", "reparameterized"))
            lines.append([
                _text(row), *(number(row[name], 3) for name in ("phi", "mu", "sigma", "mean")),
                *(f"{number(c['mean'], 3)} +- {number(1.96 * c['mean_error'], 2)}" for c in both),
                *(number(row[e], 3) for e in VARIANCES), _ratio(row),
            ])  # fmt: skip
    header = ["r", "phi", "mu", "sigma", "d/d phi", "E1", "E2", "Var E1", "best constant", "Var E2", "ratio"]
    title = f"mu = {settings.mu}, sigma = {settings.sigma}: E1 = mean of r d log q/d phi and E2 = mean of r' dz/d phi"
    print_table(header, lines, title)


def _print_dimensions(rows: list[dict[str, Any]]) -> None:
    lines = []
    for function in dict.fromkeys(r["function"] for r in rows):
        mine = [r for r in rows if (r["part"], r["function"]) == ("dimension", function)]
        first, *_, last = sorted([*mine, mine[0]], key=lambda r: r["dimension"])
        wins = ", ".join(f"{r['dimension']:,}" for r in mine if r["score_function"] < r["reparameterized"])
        lines.append([_text(first), _ratio(first), _ratio(last), _ratio(last, "best_constant"), wins or "none"])
    low, high = first["dimension"], last["dimension"]
    header = [
        "sum over D of",
        f"ratio at D = {low:,}",
        f"at D = {high:,}",
        "with best constant",
        "REINFORCE lower at D",
    ]
    print_table(header, lines, "d/d mu of one of D coordinates, sigma = 1")


def _verdict(found: Any) -> bool:
    """Prints how quadrature agrees with the closed forms and the measurements. Returns whether anything disagrees."""
    error = found.closed_form_error or 0.0
    if error > CLOSED_FORM:
        print(f"disagrees: quadrature and the closed forms of sin(omega z) have a relative difference of {error:.2g}")
    elif found.closed_form_error is not None:
        print(
            f"sin(omega z): quadrature agrees with the closed forms in every cell of the map, to {error:.1g} relative"
        )
    judged = [c for c in found.checks if c["judged"]]
    disagree = [c for c in judged if not max(abs(c["z_mean"]), abs(c["z_variance"])) <= LIMIT]
    finite = [abs(c[z]) for c in judged for z in ("z_mean", "z_variance") if math.isfinite(c[z])]
    print(f"{len(judged):,} estimates were also measured, mean and variance: {len(disagree)} disagree with quadrature "
          f"(|z| > {LIMIT:g}); the largest finite |z| is {max(finite, default=0):.2f}")  # fmt: skip
    if skipped := len(found.checks) - len(judged):
        print(
            f"{skipped:,} more are not judged: zero or infinite variance, or tails too heavy for this many replicates"
        )
    for c in disagree:
        place = ", ".join(f"{k} = {number(c[k])}" for k in ("mu", "sigma", "phi", "dimension") if c[k] is not None)
        print(f"disagrees: {_text(c)}, {place}, d/d {c['parameter']}, {c['estimator']}: mean {number(c['mean'])} (exact "
              f"{number(c['exact_mean'])}), variance {number(c['variance'])} [{number(c['variance_low'])}, "
              f"{number(c['variance_high'])}] (exact {number(c['exact_variance'])}), z = {c['z_mean']:+.1f}, "
              f"{c['z_variance']:+.1f}")  # fmt: skip
    return bool(disagree) or error > CLOSED_FORM


def _text(row: dict[str, Any]) -> str:
    """r, with the value of its knob."""
    return row["r"].replace(row["knob"], f"{row['value']:g}")


def _ratio(row: dict[str, Any], estimator: str = "score_function") -> str:
    return number(row[estimator] / row["reparameterized"], 3) if row["reparameterized"] else "reparam. exact"
