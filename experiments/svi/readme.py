"""The tables of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown, plus_minus
from experiments.common.tables import number
from experiments.svi.settings import SviSettings
from experiments.svi.study import LIMIT

SHOWN = ("logits", "mean_loc", "sd_loc")


def readme_tables(rows: list[dict[str, Any]], settings: SviSettings) -> dict[str, str]:
    """Three tables: the variances, the fits, and the posteriors. Skipped losses have a row that says so."""
    header = ["loss", *(f"{p}, {place}" for place in ("start", "optimum") for p in SHOWN), "mean gradient"]
    gradients = markdown(header, [_gradients(loss, rows) for loss in settings.estimators])
    fits = markdown(
        ["loss", "microseconds a step", "below the best ELBO, equal particles", "equal time"],
        [_fits(loss, rows) for loss in settings.estimators],
    )
    mine = [r for r in rows if r["part"] == "equal particles"]
    posterior = [
        [
            r["loss"], f"{r['value']:.2f}", number(r["nuts_distance"], 2),
            "-" if r["sd_ratio_low"] is None else f"{r['sd_ratio_low']:.2f} to {r['sd_ratio_high']:.2f}",
            number(r["assignment_distance"], 2),
        ]
        for r in mine
    ]  # fmt: skip
    header = ["loss", "ELBO", "furthest mean from NUTS's, in its sd", "sd over NUTS's", "largest error of P(z = 1)"]
    return {"gradients": gradients, "fits": fits, "posterior": markdown(header, posterior)}


def _skipped(loss: str, rows: list[dict[str, Any]], cells: int) -> list[str]:
    note = next(r["note"] for r in rows if r["part"] == "skipped" and r["loss"] == loss)
    return [loss, f"skipped: {note}", *[""] * (cells - 1)]


def _gradients(loss: str, rows: list[dict[str, Any]]) -> list[str]:
    mine = {(r["place"], r["parameter"]): r for r in rows if r["part"] == "gradient" and r["loss"] == loss}
    if not mine:
        return _skipped(loss, rows, 2 * len(SHOWN) + 1)
    cell = lambda place, p: number(mine[place, p]["value"], 3) if (place, p) in mine else "-"
    right = all(r["largest_z"] <= LIMIT for r in mine.values())
    return [loss, *(cell(place, p) for place in ("start", "optimum") for p in SHOWN), "right" if right else "**wrong**"]


def _fits(loss: str, rows: list[dict[str, Any]]) -> list[str]:
    mine = {r["part"]: r for r in rows if r["part"].startswith("equal") and r["loss"] == loss}
    if not mine:
        return _skipped(loss, rows, 3)
    r = mine["equal particles"]
    gap = lambda r: plus_minus(r["gap"], (r["high"] - r["low"]) / 2)
    return [loss, number(1e6 * r["seconds"] / r["steps"], 2), gap(r), gap(mine["equal time"])]
