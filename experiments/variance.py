"""How much noisier is REINFORCE than the reparameterization trick, on this problem, and can I trust the number?

python -m experiments.variance
"""

import time
from typing import Annotated, Any

from pydantic import Field

from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Settings


class Variance(Settings):
    """The variance of gradient estimates, measured over independent calls of several sizes.

    With no flags: the two gradients of E[x^2], x ~ N(loc, 1), at loc = 2.
    """

    problem: str = "square"
    """A shipped problem, or your own: package.module:attribute, or file.py:attribute."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
    )
    """By name, or your own as module:function; `all` for every one that applies."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(min_length=1), ONCE] = (
        10,
        100,
        1_000,
        10_000,
        100_000,
    )
    """N: how many samples a gradient estimate is made of, integers."""
    replicates: Annotated[int, Field(ge=2, le=2**62)] = 5_000
    """How many independent estimates the mean and the variance of each size are measured over, an integer."""


def run(settings: Variance) -> None:
    jax = start(settings.float_width)
    from experiments.measuring import Measured, prepare, to_rows
    from experiments.record import output_folder, result_files, write
    from experiments.variance_figure import draw_figure

    began = time.monotonic()
    task = prepare(settings, settings.problem, settings.estimators, settings.sizes)
    with output_folder(settings.out, "variance") as folder:
        work = float(sum(settings.sizes)) * settings.replicates
        measured: list[Measured] = []
        with progress(work, "measuring") as advance:
            for size in settings.sizes:
                # Each size has a key of its own, from the seed and the size alone.
                key = jax.random.fold_in(jax.random.key(settings.seed), size)
                measured.append(task.measure(key, size, settings.replicates, advance))
        rows = to_rows(task, measured)
        files = result_files("variance", settings, rows, time.monotonic() - began)
        files |= draw_figure(rows, settings.problem)
        report(rows, measured, settings)
        for why in task.left_out.values():
            print(f"left out: {why}")
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")


def report(rows: list[dict[str, Any]], measured: list[Any], settings: Variance) -> None:
    """The table of the measurement beside the truth."""
    base = {(r["parameter"], r["size"]): r["variance"] for r in rows if r["estimator"] == "reparameterized"}
    weak = {key for m in measured for key in m.weak}
    lines = []
    for r in rows:
        reference = base.get((r["parameter"], r["size"]))
        ratio = r["variance"] / reference if reference else None
        mark = "~" if (r["estimator"], r["parameter"], r["size"]) in weak else ""
        lines.append([
            r["estimator"], r["parameter"], f"{r['size']:,}", number(r["mean"], 5), number(r["exact_mean"], 5),
            number(r["variance"]), f"{mark}[{number(r['variance_low'])}, {number(r['variance_high'])}]",
            number(r["exact_variance"]), number(ratio, 3),
        ])  # fmt: skip
    header = ["estimator", "d/d", "N", "mean", "exact", "variance", "95 % interval", "exact", "/ reparam."]
    print_table(
        header, lines, f"{settings.problem}: gradient estimates from N samples, {settings.replicates:,} of each"
    )
    if weak:
        print(
            "~ heavy tails for so few replicates: the interval covers less than 95 % (about 90 % at 60 degrees of freedom "
            "of the variance); ask for more --replicates"
        )
    if any(r["exact_variance"] is None for r in rows):
        print("- not known: quadrature did not converge, or there is none for this distribution or estimator")


if __name__ == "__main__":
    command(Variance, run)
