"""The rows, tables and printed text of `experiments.fit`."""

import csv
import io
from typing import Any, NamedTuple

import numpy as np

import rgrad
from experiments.common.errors import UsageError
from experiments.common.tables import number, print_table
from experiments.fit.fitting import AVERAGE, EXACT, Fits
from experiments.fit.study import FitTask, Part

NEAR = 0.02  # largest relative distance from the minimiser's sigma that counts as arrived

Fitted = dict[str, dict[str, Fits]]  # objective, estimator
Measured = dict[
    str, rgrad.Moments | None
]  # objective, then the moments by place, estimator, parametrisation and parameter


def make_rows(task: FitTask, fitted: Fitted, measured: Measured) -> list[dict[str, Any]]:
    """One row for each objective, estimator and parameter: the result of the fits, and the gradient at the start."""
    rows = []
    for part in task.parts:
        name = part.target.name
        for estimator, fits in fitted[name].items():
            mean, error, variance = _gradient(part, measured[name], "start", estimator)
            for parameter, every in fits.final.items():
                final = every[~fits.diverged]  # the frozen state of a diverged fit is not an estimate
                rows.append({
                    "objective": name,
                    "estimator": estimator,
                    "parameter": parameter,
                    "target": part.least[parameter],
                    "final_mean": float(final.mean()) if final.size else None,
                    "final_sd": float(final.std(ddof=1)) if final.size > 1 else None,
                    "exact_gradient": part.exact[parameter],
                    "gradient_mean": mean[parameter],
                    "gradient_se": error[parameter],
                    "gradient_variance": variance[parameter],
                })  # fmt: skip
    return rows


def _gradient(part: Part, moments: rgrad.Moments | None, place: str, estimator: str) -> tuple[dict[str, Any], ...]:
    """Mean, standard error and variance by parameter. The exact gradient if nothing is sampled."""
    if moments is None:
        zero = dict.fromkeys(part.exact, 0.0)
        return dict(part.exact), zero, zero
    found = (part.pick(x[place][estimator]) for x in (moments.mean, moments.standard_error, moments.variance))
    return tuple({name: float(x) for name, x in values.items()} for values in found)


def trace_csv(fitted: Fitted) -> bytes:
    """The trajectories in the figure: quantiles over the fits, before each recorded step."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["objective", "estimator", "parameter", "step", "median", "low", "high"])
    for objective, by in fitted.items():
        for estimator, fits in by.items():
            for name in fits.median:
                columns = (fits.steps, fits.median[name], fits.low[name], fits.high[name])
                writer.writerows([objective, estimator, name, *map(float, row)] for row in zip(*columns, strict=True))
    return table.getvalue().encode()


def report(task: FitTask, settings: Any, rows: list[dict[str, Any]], measured: Measured) -> None:
    """Prints the gradients of the two formulas, the ratios of their variances, and the results of the fits."""
    if task.data is not None:
        data = task.data
        print(f"data: {data.name}; {data.x.size} values; maximum likelihood mu = {data.mean:.5g}, sigma = {data.sigma:.5g}, "
              f"sigma^2 = {data.sigma**2:.5g}{'' if settings.standardise else '; not standardised'}")  # fmt: skip
    _print_identity(settings, [r for r in rows if r["estimator"] != EXACT])
    _print_ratios(task, measured)
    header = ["objective", "estimator", "parameter", "final", "+- sd", "minimiser", "max. likelihood"]
    likely = _maximum_likelihood(task)
    lines = [
        [r["objective"], r["estimator"], r["parameter"], number(r["final_mean"], 5), number(r["final_sd"], 3),
         number(r["target"], 5), number(likely.get(r["parameter"]), 5)]
        for r in rows
    ]  # fmt: skip
    print_table(header, lines, f"results of {settings.fits} fits of {settings.steps:,} steps of {settings.optimizer}")


def _print_identity(settings: Any, rows: list[dict[str, Any]]) -> None:
    lines = []
    for r in rows:
        exact, mean, error = r["exact_gradient"], r["gradient_mean"], r["gradient_se"]
        z = None if exact is None else 0.0 if error == 0 else (mean - exact) / error
        interval = f"[{number(mean - 1.96 * error, 5)}, {number(mean + 1.96 * error, 5)}]"
        lines.append([r["objective"], r["estimator"], r["parameter"], number(exact, 5), number(mean, 5), interval,
                      "-" if z is None else f"{z:+.2f}"])  # fmt: skip
    header = ["objective", "estimator", "d/d", "exact", "mean", "95 % interval", "z"]
    print_table(header, lines, f"the same gradient from every formula, at the start ({settings.replicates:,} estimates from {settings.num_samples} samples)")  # fmt: skip


def _print_ratios(task: FitTask, measured: Measured) -> None:
    """Prints the variance of each estimator divided by that of reparameterized."""
    lines = []
    for part in task.parts:
        moments = measured[part.target.name]
        if moments is None or "reparameterized" not in part.estimators:
            continue
        for place in part.points:
            base = _gradient(part, moments, place, "reparameterized")[2]
            for estimator in part.estimators:
                if estimator != "reparameterized":
                    variances = _gradient(part, moments, place, estimator)[2]
                    ratios = [v / base[k] if base[k] > 0 else None for k, v in variances.items()]
                    lines.append([part.target.name, estimator, place, *(number(x, 3) for x in ratios)])
    if lines:
        names = list(task.parts[0].exact)
        where = "" if task.data is None else ", at the start and at the maximum-likelihood optimum"
        print_table(
            ["objective", "estimator", "at", *names], lines, f"variance divided by that of reparameterized{where}"
        )


def _maximum_likelihood(task: FitTask) -> dict[str, float]:
    if task.data is None:
        return {}
    return {"mu": task.data.mean, "sigma": task.data.sigma, "sigma^2": task.data.sigma**2}


class Warnings(NamedTuple):
    divergence: str | None

    def raise_divergence(self) -> None:
        """Raises UsageError for a divergence. Call it after everything has been written, so that the trace is kept."""
        if self.divergence:
            raise UsageError(self.divergence)


def warnings(task: FitTask, settings: Any, fitted: Fitted) -> Warnings:
    """Prints which fits stopped and why, and the conclusions."""
    diverged = []
    for objective, by in fitted.items():
        for estimator, fits in by.items():
            stopped = fits.stopped_at >= 0
            where = f"{objective}, {estimator}"
            if fits.diverged.any():
                steps = fits.stopped_at[fits.diverged]
                diverged.append(
                    f"{where}: {fits.diverged.sum()} of {len(stopped)} fits diverged, the first at step {steps.min():,}"
                )
            if (crossed := stopped & ~fits.diverged).any():
                steps = fits.stopped_at[crossed]
                line = (
                    f"{where}: {crossed.sum()} of {len(stopped)} fits would have left the allowed parameters, at step "
                )
                line += f"{int(np.median(steps)):,} (median; {steps.min():,} to {steps.max():,}), and were frozen there"
                if objective == "squared_error":
                    line += ": sigma reached 0, as expected for this objective"
                elif task.data is not None:
                    line += ": a noisy step took sigma to 0 or below; use --parametrisation log_sigma"
                print(line)
    if task.data is not None:
        _print_findings(task, fitted)
    advice = "; use a smaller --learning-rate (the results so far are written)"
    more = f" | and {len(diverged) - 2} more" if len(diverged) > 2 else ""
    return Warnings(" | ".join(diverged[:2]) + more + advice if diverged else None)


def _print_findings(task: FitTask, fitted: Fitted) -> None:
    assert task.data is not None
    data = task.data
    for part in task.parts:
        name, finals = part.target.name, fitted[part.target.name]
        least = part.least["sigma"]
        medians = {e: float(np.median(f.final["sigma"])) for e, f in finals.items() if not f.diverged.any()}
        if name == "squared_error":
            so_far = ", ".join(f"{sigma / data.sigma:.2g}" for sigma in medians.values()) or "none settled"
            print(f"squared_error: its gradient for sigma is 2 n sigma in every formula, so sigma falls to 0 (medians so far, relative to "
                  f"the sigma of the data: {so_far}). The formulas agree. The objective is wrong: no term rewards a spread.")  # fmt: skip
            continue
        if least:
            away = [e for e in finals if e not in medians or abs(medians[e] / least - 1) > NEAR]
            arrived = [e for e in finals if e not in away]
            print(f"{name}: {_list(arrived)} ended within {NEAR:.0%} of the minimiser's sigma, {least:.5g}"
                  + (f"; {_list(away)} did not: use more --steps, or another --learning-rate" if away else ""))  # fmt: skip
        if name == "energy_score" and least:
            off = least / data.sigma - 1
            # On normal data the two differ by chance, by about 0.24 / sqrt(n) relative. Four times that is not due to chance.
            chance = "which may be chance" if abs(off) < data.x.size**-0.5 else "because the data are not normal"
            print(f"energy_score: a proper score. Its minimiser is {off:+.1%} from the maximum-likelihood sigma, {chance}.")  # fmt: skip
        if name == "kl":
            print("kl: it is given the sample mean and variance. It only shows that the entropy keeps sigma away from 0.")  # fmt: skip
    if any(AVERAGE in by for by in fitted.values()):
        print("score_function+moving_average: its gradients in the tables use a baseline from one earlier call.")


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"
