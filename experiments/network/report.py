"""The printed text of `experiments.network`."""

import math
from typing import Any

from experiments.common.tables import number, print_table
from experiments.network.model import LAYERS
from experiments.network.rows import Row
from experiments.network.study import WHOLE, NetworkNoise, NetworkTask


def report(task: NetworkTask, found: list[NetworkNoise], rows: list[Row]) -> list[Row]:
    """Prints the tables and the verdict. Returns the rows whose bias chance does not explain."""
    s = task.settings
    print(
        f"{s.images:,} digits; weights in {task.library}; {s.num_samples} samples of {s.units} units for each image; "
        f"95 % intervals over {s.replicates:,} gradients"
    )
    for place in {id(m.place): m.place for m in found}.values():
        mine = [r for r in rows if (r["family"], r["step"]) == (place.family, place.step)]
        print(
            f"{place.family} units after {place.step:,} steps: loss {place.loss:.3f}, {place.accuracy:.1%} of the test images right"
        )
        _print_whole([r for r in mine if r["layer"] == WHOLE])
        _print_layers([r for r in mine if r["batch"] == task.batches[0]], task.batches[0])
    judged = [r for r in rows if r["holds"] is not None]
    wrong = [r for r in judged if not r["holds"]]
    z = [abs(r["minibatch_z"]) for r in rows if r["minibatch_z"] is not None]
    if z:
        print(
            f"{len(z)} variances of the minibatch compared with the exact ones of the images: they differ by at most "
            f"{max(z):.1f} standard errors"
        )
    print(
        f"{len(judged)} mean gradients of unbiased estimators compared with the exact ones, {len(wrong)} do not agree"
    )
    for r in wrong:
        print(
            f"does not agree: {r['estimator']}, {r['layer']} with {r['family']} units after {r['step']:,} steps: off by "
            f"{r['relative_bias']:.1%}, {r['bias_z']:.1f} standard errors"
        )
    return wrong


def interval(row: Row, name: str, factor: float = 1.0, digits: int = 3) -> str:
    """`3.1 [2.9, 3.3]`, or `> 2.9` if there is no upper end. Without an interval if the number is not random."""
    value, low, high = (factor * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if high == math.inf:
        return f"> {number(low, digits)}"
    return number(value, digits) + (f" [{number(low, digits)}, {number(high, digits)}]" if low < high else "")


def share(row: Row) -> str:
    """The share of the estimator in the variance, in percent."""
    return f"{min(1.0, row['estimator_variance'] / row['variance']):.0%}" if row["variance"] > 0 else "-"


def bias(row: Row) -> str:
    """The relative bias if it is significant, or else an upper bound, in percent."""
    if row["relative_bias_low"] > 0 and (row["biased"] or row["holds"] is False):
        return f"{row['relative_bias']:.0%}"
    most = max(0.1, 100 * row["relative_bias_high"])
    return f"< {most:.0f} %" if most >= 10 else f"< {most:.1g} %"


def _print_whole(rows: list[Row]) -> None:
    header = ["estimator", "f evaluations", "batch", "variance", "of it the estimator's", "squared mean", "signal to noise",
              "noise scale, in images", "bias"]  # fmt: skip
    lines: list[list[str]] = [
        [
            r["estimator"] + " (biased)" * r["biased"], "-" if r["evaluations"] is None else f"{r['evaluations']:,}",
            f"{r['batch']:,}", interval(r, "variance"), share(r), interval(r, "squared_mean"), interval(r, "signal_to_noise"),
            interval(r, "noise_scale", r["batch"]), bias(r) if r["bias_z"] is not None else "",
        ]
        for r in rows
    ]  # fmt: skip
    print_table(header, lines, "the gradient of all layers")


def _print_layers(rows: list[Row], batch: int) -> None:
    """The two sources of noise of each layer, for one image."""
    cell: dict[tuple[str, str], Any] = {(r["estimator"], r["layer"]): r for r in rows}
    names = list(dict.fromkeys(r["estimator"] for r in rows))
    first = [number(cell[names[0], layer]["image_variance"], 3) for layer in LAYERS]
    lines = [["images (exact)", *first]]
    lines += [[name, *(interval(cell[name, of], "estimator_variance", batch) for of in LAYERS)] for name in names]
    print_table(
        ["source", *LAYERS],
        lines,
        "the noise of each layer by its source, for a batch of one image",
    )
