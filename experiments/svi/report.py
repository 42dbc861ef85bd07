"""The rows, files and printed text of `experiments.svi`."""

from typing import Any

import numpy as np
from scipy.special import stdtrit

from experiments.common.errors import UsageError
from experiments.common.record import table_csv
from experiments.common.tables import number, print_table
from experiments.svi.exact import globals_of, wide
from experiments.svi.fits import SviFits
from experiments.svi.study import LIMIT, SviStudy

GLOBALS = ("log odds", "mean 0", "mean 1", "log sd")
CHAINS_BAR = 1.01  # r-hat
Row = dict[str, Any]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over the seeds, and the ends of its 95 % interval (Student's t)."""
    mean, half = values.mean(), stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / values.size**0.5
    return float(mean), float(mean - half), float(mean + half)


def make_rows(found: SviStudy) -> list[Row]:
    """A row for each gradient, and for each fit at equal particles and at equal time."""
    rows = []
    for g in found.gradients:
        way = found.task.ways[g.loss]
        rows.append(_row(
            "gradient", g.loss, way, place=g.place, parameter=g.parameter, value=g.variance, low=g.low, high=g.high,
            largest_z=g.largest_z, compared=g.elements, holds=None if way.biased else g.largest_z <= LIMIT,
        ))  # fmt: skip
    for part, fits in (("equal particles", found.equal_particles), ("equal time", found.equal_time)):
        rows += [_fit_row(part, name, f, found) for name, f in fits.items()]
    rows += [_row("skipped", name, None, note=why) for name, why in found.task.skipped.items()]
    return rows


def _row(part: str, loss: str, way: Any, **others: Any) -> Row:
    """The columns of every row."""
    columns: Row = {
        "part": part, "loss": loss, "marginal": None if way is None else way.marginal,
        "biased": None if way is None else way.biased, "place": None, "parameter": None, "value": None, "low": None,
        "high": None, "largest_z": None, "compared": None, "holds": None, "learning_rate": None, "steps": None,
        "seconds": None, "gap": None, "nuts_distance": None, "sd_ratio_low": None, "sd_ratio_high": None,
        "assignment_distance": None, "note": None,
    }  # fmt: skip
    return columns | others


def _fit_row(part: str, name: str, f: SviFits, found: SviStudy) -> Row:
    """The value is the final ELBO. The gap is that to the best guide of the same model."""
    way, a = found.task.ways[name], found.agreement.get(name) if part == "equal particles" else None
    elbo, low, high = interval(f.final)
    nuts = {} if a is None else {
        "nuts_distance": float(a.distance.max()), "sd_ratio_low": float(a.sd_ratio.mean(0).min()),
        "sd_ratio_high": float(a.sd_ratio.mean(0).max()), "assignment_distance": float(a.assignment.max()),
    }  # fmt: skip
    return _row(
        part, name, way, value=elbo, low=low, high=high, gap=found.best[way.marginal] - elbo, steps=int(f.steps[-1]),
        learning_rate=found.task.settings.learning_rates[f.chosen], seconds=float(f.seconds[-1]),
        note=found.task.warnings.get(name), **nuts,
    )  # fmt: skip


def result_tables(found: SviStudy) -> dict[str, bytes]:
    """`curves.csv`, the ELBO during the fits, and `posterior.csv`, the globals under each guide and from NUTS."""
    curves = [
        {
            "part": part, "loss": name, "learning_rate": found.task.settings.learning_rates[f.chosen],
            "step": int(f.steps[i]), "seconds": float(f.seconds[i]), "elbo": float(np.median(elbo)),
            "elbo_least": float(elbo.min()), "elbo_most": float(elbo.max()),
        }
        for part, fits in (("equal particles", found.equal_particles), ("equal time", found.equal_time))
        for name, f in fits.items()
        for i, elbo in enumerate(f.elbo[:, f.chosen])
    ]  # fmt: skip
    posterior: list[Row] = []
    for name, f in found.equal_particles.items():
        loc, scale = first_globals(f)
        posterior += [
            {"loss": name, "parameter": of, "mean": m, "sd": s} for of, m, s in zip(GLOBALS, loc, scale, strict=True)
        ]
    if (p := found.posterior) is not None:
        of_nuts = zip(GLOBALS, p.theta.mean(0), p.theta.std(0, ddof=1), strict=True)
        posterior += [{"loss": "NUTS", "parameter": of, "mean": float(m), "sd": float(s)} for of, m, s in of_nuts]
    return {"curves.csv": table_csv(curves), "posterior.csv": table_csv(posterior)}


def first_globals(f: SviFits) -> tuple[list[float], list[float]]:
    """Means and standard deviations of the globals under the guide of the first seed, in the order of `GLOBALS`."""
    loc, scale = globals_of(wide({name: value[-1, f.chosen, 0] for name, value in f.params.items()}))
    return np.asarray(loc).tolist(), np.asarray(scale).tolist()


def report(found: SviStudy, rows: list[Row]) -> list[Row]:
    """Prints the tables and the verdict. Returns the rows that do not hold."""
    s, task = found.task.settings, found.task
    print(f"{task.column.name}: {len(task.column.x)} rows; {s.num_particles} particles for each gradient")
    _print_gradients(rows, s)
    _print_fits(rows, s)
    if (p := found.posterior) is not None:
        print(
            f"NUTS with z summed out: {s.chains} chains of {s.draws:,} draws after {s.draws // 2:,}; r-hat at most {p.r_hat:.4f}"
            f"{'' if p.r_hat <= CHAINS_BAR else ' (more than ' + str(CHAINS_BAR) + ': use more --draws)'}, effective sample "
            f"size at least {p.effective:,.0f}; {p.seconds:.0f} s"
        )
    for name, why in task.skipped.items():
        print(f"skipped: {name}: {why}")
    for name, said in task.warnings.items():
        print(f"{name}: NumPyro warns: {said}")
    judged = [r for r in rows if r["holds"] is not None]
    wrong = [r for r in judged if not r["holds"]]
    print(f"{len(judged)} mean gradients of unbiased losses compared with the exact ones, {len(wrong)} do not agree")
    for r in wrong:
        print(
            f"does not agree: {r['loss']}, {r['parameter']} at the {r['place']}: {r['largest_z']:.1f} standard errors off"
        )
    return wrong


def raise_divergence(found: SviStudy) -> None:
    """Reports divergence. Call it after everything has been written.

    Raises:
        UsageError: a fit at the best learning rate ended with an ELBO that is not finite.
    """
    for part, fits in (("equal particles", found.equal_particles), ("equal time", found.equal_time)):
        for name, f in fits.items():
            if lost := int((~np.isfinite(f.final)).sum()):
                raise UsageError(
                    f"{name}: {lost} of {f.final.size} fits at {part} ended with an ELBO that is not finite, even at the best "
                    "learning rate; use smaller --learning-rates"
                )


def _print_gradients(rows: list[Row], s: Any) -> None:
    mine = [r for r in rows if r["part"] == "gradient"]
    parameters = list(dict.fromkeys(r["parameter"] for r in mine))
    for place in dict.fromkeys(r["place"] for r in mine):
        lines = []
        for loss in dict.fromkeys(r["loss"] for r in mine):
            of = {r["parameter"]: r for r in mine if (r["loss"], r["place"]) == (loss, place)}
            largest = max(r["largest_z"] for r in of.values())
            lines.append([loss, *(number(of[p]["value"], 3) if p in of else "-" for p in parameters), f"{largest:.1f}"])
        title = f"variance of the gradient at the {place}, over {s.replicates:,} estimates; and the distance of its mean from the exact gradient"
        print_table(["loss", *parameters, "largest |z|"], lines, title)


def _print_fits(rows: list[Row], s: Any) -> None:
    header = [
        "loss",
        "rate",
        "steps",
        "ms a step",
        "ELBO",
        "95 % interval",
        "below the best",
        "means off",
        "sds",
        "P(z) off",
    ]
    for part in ("equal particles", "equal time"):
        lines = [
            [
                r["loss"], f"{r['learning_rate']:g}", f"{r['steps']:,}", f"{1e3 * r['seconds'] / r['steps']:.3f}",
                f"{r['value']:.3f}", f"[{r['low']:.3f}, {r['high']:.3f}]", f"{r['gap']:.3f}", number(r["nuts_distance"], 2),
                "-" if r["sd_ratio_low"] is None else f"{r['sd_ratio_low']:.2f} to {r['sd_ratio_high']:.2f}",
                number(r["assignment_distance"], 2),
            ]
            for r in rows if r["part"] == part
        ]  # fmt: skip
        print_table(header, lines, f"fits at {part}, at the best rate; means over {s.seeds} seeds")
    print(
        "below the best: nats below the best guide of the same model. means off, sds, P(z) off: compared with NUTS, the "
        "means in its standard deviations. ms: of one fit, of those run at once, without compilation"
    )
