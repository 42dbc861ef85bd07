"""The rows, tables and printed text of `experiments.logistic`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import stdtrit

from experiments.common.errors import UsageError
from experiments.common.tables import number, print_table
from experiments.logistic.model import standard_deviations
from experiments.logistic.nuts import Posterior, distance
from experiments.logistic.study import Fitted, Study
from experiments.logistic.task import Worth

# The limits for a fit to all rows of the bundled data. The optima are -67.46 and about -55.47.
ELBO_BARS = {"mean_field": -67.7, "full": -55.8}
ACCURACY_BAR = 0.98
DISTANCE_BAR = 0.15  # in posterior standard deviations
CHAINS_BAR = 1.01  # r-hat


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over the seeds, and the ends of its 95 % interval (Student's t)."""
    mean, half = values.mean(), stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / values.size**0.5
    return float(mean), float(mean - half), float(mean + half)


def make_rows(found: Study) -> list[dict[str, Any]]:
    """One row for each family, estimator and rate. Then one for the best of each family, fitted to all rows."""
    again = found.whole if found.task.settings.held_out else []
    rows = [_row(f, i, found.posterior) for f in found.compared + again for i in range(len(f.plan.rates))]
    return rows


def _row(f: Fitted, i: int, posterior: Posterior | None) -> dict[str, Any]:
    posterior = posterior if f.data == "all" else None
    worth = f.worth if i == f.chosen else Worth(*(x[i] for x in f.rough))
    elbo, low, high = interval(worth.elbo)
    held, held_low, held_high = interval(worth.held_out)
    stopped = f.runs.stopped_at[i] >= 0
    loc = np.asarray(f.runs.params["loc"][i])
    ratio = None if posterior is None else standard_deviations(f.runs.params)[i].mean(0) / posterior.sd
    return {
        "data": f.data,
        "rows": f.rows,
        "family": f.family,
        "estimator": f.estimator,
        "learning_rate": f.plan.rates[i],
        "chosen": i == f.chosen,
        "elbo": elbo,
        "elbo_low": low,
        "elbo_high": high,
        "accuracy": float(worth.accuracy.mean()),
        "held_out_log_likelihood": held,
        "held_out_log_likelihood_low": held_low,
        "held_out_log_likelihood_high": held_high,
        "held_out_accuracy": float(worth.held_out_accuracy.mean()),
        "evaluations": f.plan.steps * f.plan.samples,
        "seconds": float(f.runs.seconds[-1]),
        "stopped": int(stopped.sum()),
        "first_stop": int(f.runs.stopped_at[i][stopped].min()) if stopped.any() else None,
        "nuts_distance": None if posterior is None else float(distance(loc, posterior).max()),
        "sd_ratio_low": None if ratio is None else float(ratio.min()),
        "sd_ratio_high": None if ratio is None else float(ratio.max()),
    }


def report(found: Study, rows: list[dict[str, Any]]) -> None:
    s, table = found.task.settings, found.task.table
    kept, held = len(found.task.compared.y), len(found.task.compared.held_y)
    print(
        f"{table.source}: {kept} rows to fit, {held} held out; {len(found.weights)} weights with the intercept; "
        f"{f'minibatches of {s.batch}' if s.batch else 'all'} rows per step"
    )
    _print_comparison([r for r in rows if r["chosen"]], s)
    if found.posterior is not None:
        p = found.posterior
        print(
            f"NUTS on all {len(table.y)} rows: {s.chains} chains of {s.draws:,} draws after {s.draws // 2:,}; r-hat at most "
            f"{p.r_hat.max():.4f}, effective sample size at least {p.effective.min():,.0f}; {p.seconds:.0f} s"
        )
    if lines := list(verdicts(found, rows)):
        print_table(["of the fit to all rows", "number", "limit", "verdict"], lines, "checks")
    for line in _stops(found):
        print(line)


def _print_comparison(rows: list[dict[str, Any]], s: Any) -> None:
    header = ["data", "family", "estimator", "rate", "ELBO", "95 % interval", "held-out lik.", "95 % interval", "accuracy",
              "held-out acc.", "seconds"]  # fmt: skip
    lines = [
        [
            f"{r['data']}, {r['rows']}", r["family"], r["estimator"], f"{r['learning_rate']:g}", f"{r['elbo']:.2f}",
            f"[{r['elbo_low']:.2f}, {r['elbo_high']:.2f}]", *_held(r), f"{r['accuracy']:.4f}",
            "-" if np.isnan(r["held_out_accuracy"]) else f"{r['held_out_accuracy']:.4f}", f"{r['seconds']:.2f}",
        ]
        for r in rows
    ]  # fmt: skip
    print_table(header, lines, f"after {s.steps:,} steps, at the best rate; means over {s.seeds} seeds")
    print(
        f"equal compute: {s.steps * s.num_samples:,} evaluations of log g for each fit, {s.num_samples} per step. seconds: time of the "
        "simultaneous fits divided by their number, without compilation. ELBO in nats; held-out: log likelihood in nats per row, and "
        "accuracy on the held-out rows"
    )


def _held(r: dict[str, Any]) -> tuple[str, str]:
    if np.isnan(r["held_out_log_likelihood"]):
        return "-", "-"
    low, high = r["held_out_log_likelihood_low"], r["held_out_log_likelihood_high"]
    return f"{r['held_out_log_likelihood']:.4f}", f"[{low:.4f}, {high:.4f}]"


def verdicts(found: Study, rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Checks of the fit to all rows: name, number, limit, and whether it holds."""
    say = lambda holds: "holds" if holds else "FAILS"
    best = {(f.family, f.estimator) for f in found.whole}
    for r in rows:
        if r["data"] != "all" or not r["chosen"] or (r["family"], r["estimator"]) not in best:
            continue
        who, least = f"{r['family']}, {r['estimator']}", ELBO_BARS[r["family"]]
        if found.task.settings.data is None:
            elbo = f"{r['elbo']:.3f} [{r['elbo_low']:.3f}, {r['elbo_high']:.3f}]"
            yield [f"ELBO, {who}", elbo, f">= {least}", say(r["elbo"] >= least)]
            yield [f"accuracy, {who}", f"{r['accuracy']:.4f}", f"> {ACCURACY_BAR}", say(r["accuracy"] > ACCURACY_BAR)]
        if (far := r["nuts_distance"]) is not None:
            barred = r["family"] == "full"
            bar, verdict = (f"<= {DISTANCE_BAR}", say(far <= DISTANCE_BAR)) if barred else ("-", "-")
            yield [f"largest distance of a mean from NUTS, in sds, {who}", f"{far:.3f}", bar, verdict]
            ratios = f"{number(r['sd_ratio_low'], 3)} to {number(r['sd_ratio_high'], 3)}"
            yield [f"sds relative to NUTS, {who}", ratios, "-", "-"]
    if (p := found.posterior) is not None:
        yield [
            "largest r-hat of NUTS",
            f"{p.r_hat.max():.4f}",
            f"<= {CHAINS_BAR}",
            say(p.r_hat.max() <= CHAINS_BAR),
        ]


def _stops(found: Study, chosen_only: bool = False) -> list[str]:
    """Lines that say which fits had a value that is not finite, and when.

    Args:
        chosen_only: leave out the learning rates that were not chosen. It is normal that the largest rate diverges.
    """
    lines = []
    for f in found.compared + (found.whole if found.task.settings.held_out else []):
        for i, (rate, at, elbo) in enumerate(zip(f.plan.rates, f.runs.stopped_at, f.rough.elbo, strict=True)):
            if chosen_only and i != f.chosen:
                continue
            who = f"{f.family}, {f.estimator}, rate {rate:g}"
            if (stopped := at[at >= 0]).size:
                lines.append(
                    f"{who}: {stopped.size} of {at.size} fits had an ELBO or a gradient that is not finite, "
                    f"the first at step {stopped.min():,}, and were frozen in the last good state"
                )
            if lost := int((~np.isfinite(elbo) & (at < 0)).sum()):
                lines.append(f"{who}: {lost} of {at.size} fits ended with an ELBO that is not finite")
    return lines


def raise_divergence(found: Study) -> None:
    """Reports divergence. Call it after everything has been written.

    Raises:
        UsageError: a fit stopped at the learning rate that was chosen.
    """
    if lines := _stops(found, chosen_only=True):
        more = f" | and {len(lines) - 1} more like it" if len(lines) > 1 else ""
        raise UsageError(f"{lines[0]}{more}; use smaller --learning-rates (the last good states are in states.npz)")
