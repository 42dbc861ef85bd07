"""Writes the curves, posteriors and states of `experiments.logistic` to files."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.logistic.model import standard_deviations
from experiments.logistic.study import Study


def result_tables(found: Study) -> dict[str, bytes]:
    """`curves.csv`, `posterior.csv`, and `states.npz`.

    `states.npz` has every q under the names data/family/estimator/parameter, with axes (rates, seeds).
    """
    states = io.BytesIO()
    fits = found.compared + (found.whole if found.task.settings.held_out else [])
    named: dict[str, Any] = {
        f"{f.data}/{f.family}/{f.estimator}/{k}": x for f in fits for k, x in f.runs.params.items()
    }
    np.savez_compressed(states, **named)
    return {
        "curves.csv": _csv(_curves(found)),
        "posterior.csv": _csv(_posterior(found)),
        "states.npz": states.getvalue(),
    }


def _curves(found: Study) -> Iterator[dict[str, Any]]:
    for f in found.compared:
        for i, step in enumerate(f.runs.steps):
            point = {"family": f.family, "estimator": f.estimator, "learning_rate": f.plan.rates[f.chosen], "step": step,
                     "evaluations": step * f.plan.samples, "seconds": f.runs.seconds[i]}  # fmt: skip
            judged = {"elbo": f.curve.elbo[i]}
            if found.task.settings.held_out:
                judged["held_out_log_likelihood"] = f.curve.held_out[i]
            for name, values in judged.items():
                point |= {name: np.median(values), f"{name}_least": values.min(), f"{name}_most": values.max()}
            yield point


def _posterior(found: Study) -> Iterator[dict[str, Any]]:
    """Each weight under the q of the fit to all rows (first seed), and from NUTS."""
    for i, weight in enumerate(found.weights):
        row: dict[str, Any] = {"weight": weight}
        for f in found.whole:
            row |= {
                f"{f.family}_mean": f.runs.params["loc"][f.chosen, 0, i],
                f"{f.family}_sd": standard_deviations(f.runs.params)[f.chosen, 0, i],
            }
        if (p := found.posterior) is not None:
            row |= {"nuts_mean": p.mean[i], "nuts_sd": p.sd[i], "r_hat": p.r_hat[i], "effective": p.effective[i]}
        yield row


def _csv(rows: Iterator[dict[str, Any]]) -> bytes:
    every, table = list(rows), io.StringIO()
    writer = csv.DictWriter(table, every[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    return table.getvalue().encode()
