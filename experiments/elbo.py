"""The ELBO of location-scale families: the notes' equations checked, and how noisy its gradient is as D grows.

python -m experiments.elbo
"""

import time
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Common

Dimension = Annotated[int, Field(ge=1, le=64)]
Distance = Annotated[float, Field(ge=0, le=3, allow_inf_nan=False)]
Family = Literal["gamma", "beta", "dirichlet"]
SHOWN = (0.1, 1.0)  # the distances of the families that are printed; the others are in the figure


class Elbo(Common):
    """For z = mu + C eps: the notes' equations (4), (5), (6h) and (7c) as numbers, both sides, in 64 bits, at the smallest D
    and the largest; and for each D the variance of gradient estimates of the ELBO in mu, the diagonal of C and what is below
    it. The same for Gamma, Beta and Dirichlet.

    A variance is that of one estimate, summed over the coordinates of a block. Exit status 1 where an equation, or the
    mean of an estimate, is off: by 1e-5 relative, or where sampled by 6 standard errors.
    """

    target: str = "gaussian"
    """gaussian, logistic (made data), or your own file.py:function, z of shape (D,) to a log density."""
    phi: Literal["normal", "laplace", "student_t"] = "normal"
    """The law of one coordinate of eps: normal, laplace or student_t (10 degrees of freedom)."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1), ONCE] = (1, 4, 16, 64)
    """D, each from 1 to 64."""
    distances: Annotated[tuple[Distance, ...], Field(min_length=1), ONCE] = (0.1, 1.0)
    """From where q is the target: mu so many of its standard deviations off in every coordinate, C e^-distance times as wide."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "score_function/sampled",
        "score_function/detached",
        "score_function+leave_one_out/sampled",
        "score_function+leave_one_out/detached",
        "reparameterized/sampled",
        "reparameterized/exact",
        "reparameterized/detached",
    )
    """ESTIMATOR/ENTROPY, also your own; an entropy is sampled, exact or detached (reparameterized: sticking the landing)."""
    families: Annotated[tuple[Family, ...], ONCE] = ("gamma", "beta", "dirichlet")
    """Of gamma, beta and dirichlet, each with a target of its own kind; none where empty."""
    family_estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "score_function/sampled",
        "generalized/exact",
        "rejection/exact",
        "reparameterized/sampled",
        "reparameterized/exact",
    )
    """The same for the families; reparameterized is by implicit differentiation there."""
    family_dimension: Dimension = 4
    """How many Gammas; a Dirichlet has one coordinate more. Beta is one number."""
    samples: Annotated[int, Field(ge=1, lt=2**16)] = 10
    """Of one gradient estimate, an integer."""
    replicates: Annotated[int, Field(ge=100, lt=2**31)] = 1_000
    """How many independent pairs of estimates a variance is measured over, an integer."""


def run(settings: Elbo) -> int:
    jax = start(settings.float_width)
    import numpyro

    numpyro.enable_validation(False)  # the parameters are our own; to check them at every trace takes seconds
    from experiments.elbo_checks import check_rows
    from experiments.elbo_figure import draw_figure
    from experiments.elbo_task import family_case, load_way, location_scale_cases, measured_rows, ways_that_apply
    from experiments.errors import UsageError
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    ways = {name: load_way(name) for name in settings.estimators}
    family_ways = {name: load_way(name, "--family-estimators") for name in settings.family_estimators}
    located = location_scale_cases(settings)
    for _, case in located:
        if refused := ways_that_apply(case, ways, settings.samples, "--estimators")[1]:
            raise UsageError(f"--estimators {next(iter(refused.values()))}")
    families = [family_case(name, settings) for name in settings.families]
    apply = [ways_that_apply(case, family_ways, settings.samples, "--family-estimators") for case in families]
    key = jax.random.key(settings.seed)
    rows: list[dict[str, Any]] = []
    with output_folder(settings.out, "elbo") as folder:
        ends = {min(settings.dimensions), max(settings.dimensions)}
        with progress(len(ends) + len(located) + len(families), "checking and measuring") as advance:
            for target in (target for target, case in located if case.dimension in ends):
                rows += check_rows(settings.target, target, settings.phi, settings.seed)
                advance(1)
            for i, (_, case) in enumerate(located):
                rows += measured_rows(case, ways, settings, jax.random.fold_in(key, i), advance)
            for i, (case, (kept, _)) in enumerate(zip(families, apply, strict=True)):
                rows += measured_rows(case, kept, settings, jax.random.fold_in(key, 1000 + i), advance)
        files = result_files("elbo", settings, rows, time.monotonic() - began)
        files |= draw_figure(rows, settings)
        left_out = {reason for _, refused in apply for reason in refused.values()}
        wrong = report(rows, settings, left_out)
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")
    return 1 if wrong else 0


def report(rows: list[dict[str, Any]], settings: Elbo, left_out: set[str]) -> list[dict[str, Any]]:
    """The tables, and the verdict; returns the rows that do not hold."""
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
        f"target {settings.target}, D = {largest}{others}; the difference is relative where nothing is sampled",
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
        "for z = mu + C eps the sampled and the exact entropy have the same reparameterized gradient, sample by sample: "
        "(6a) = (6h) above"
    )
    judged = [r for r in rows if r["holds"] is not None]
    wrong = [r for r in judged if not r["holds"]]
    print(f"{len(judged)} equations and means of estimates checked, {len(wrong)} do not hold")
    for r in wrong:
        who = f", {r['estimator']}/{r['entropy']} at the distance {r['distance']:g}" if r["estimator"] else ""
        print(
            f"does not hold: {r['part']}, {r['q']}, D = {r['dimension']}, {r['quantity']}{who}: {number(r['value'], 8)} for "
            f"{number(r['reference'], 8)}, off by {number(r['difference'])} where {number(r['allowed'])} is allowed"
        )
    return wrong


def _print_variances(rows: list[dict[str, Any]], settings: Elbo) -> None:
    """A line for each distance and estimator: the mean ELBO, and the variance of each block."""
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
        f"q = {r['q']}, target {r['target']}, D = {r['dimension']}: estimates of {settings.samples} samples, over "
        f"{settings.replicates:,} pairs of them; 95 % intervals"
    )
    print_table(header, lines, title)


if __name__ == "__main__":
    command(Elbo, run)
