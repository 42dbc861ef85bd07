"""Which gradient of an expectation over bits is least noisy, which is wrong, and which one trains?

python -m experiments.discrete
"""

import time
from typing import Annotated, Any

from pydantic import Field

from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Common


class Discrete(Common):
    """The toy of the papers: D bits, f(b) = mean (b - t)^2, its gradient in the logits by every estimator.

    Variance and bias at one point, and training curves of Adam. The nearer t is to 1/2, the less f tells the bits apart.
    """

    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "enumerated",
        "score_function",
        "score_function+leave_one_out",
        "score_function+optimal",
        "measure_valued",
        "arm",
        "disarm",
        "rebar",
        "rebar+trained",
        "gumbel_softmax",
        "straight_through",
    )
    """By name. The last two are biased."""
    bits: Annotated[int, Field(ge=1, le=16)] = 6
    """D, an integer up to 16: all 2^D values are enumerated by one of the estimators."""
    targets: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), ONCE] = (0.499, 0.45)
    """t, each from 0 to 1."""
    logit: Annotated[float, Field(ge=-20, le=20)] = 0.0
    """Of every bit, where the gradient is measured and training begins."""
    samples: Annotated[int, Field(ge=1, lt=2**20)] = 10
    """Of one gradient estimate, an integer (pairs for arm and disarm)."""
    replicates: Annotated[int, Field(ge=2, le=2**40)] = 20_000
    """How many independent estimates the variance is measured over, an integer."""
    fits: Annotated[int, Field(ge=2, le=2**20)] = 32
    """How many training runs of each, an integer."""
    steps: Annotated[int, Field(ge=1, le=2**31)] = 1_000
    """Of training, an integer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Of Adam."""
    points: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Of a training curve, an integer."""


def run(settings: Discrete) -> None:
    jax = start(settings.float_width)
    from experiments.discrete_figure import draw_figure
    from experiments.discrete_task import prepare, rows_of
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    task = prepare(settings)
    with output_folder(settings.out, "discrete") as folder:
        with progress(len(task.ways), "measuring and training") as advance:
            rows, curves = rows_of(task, settings, jax.random.key(settings.seed), advance)
        files = result_files("discrete", settings, rows, time.monotonic() - began)
        files |= draw_figure(rows, curves, settings)
        report(rows, settings)
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")


def report(rows: list[dict[str, Any]], settings: Discrete) -> None:
    header = [
        "estimator",
        "f evaluations",
        "mean",
        "exact",
        "bias",
        "95 % +-",
        "variance",
        "95 % interval",
        "excess loss",
    ]
    for target in settings.targets:
        lines = [
            [
                r["estimator"], f"{r['evaluations']:,}", number(r["mean"]), number(r["exact_mean"]), number(r["bias"], 2),
                number(1.96 * r["standard_error"], 2), number(r["variance"]),
                f"[{number(r['variance_low'])}, {number(r['variance_high'])}]",
                f"{number(r['excess_loss'], 3)} +- {number(1.96 * r['excess_loss_error'], 2)}",
            ]
            for r in rows if r["target"] == target
        ]  # fmt: skip
        title = (
            f"{settings.bits} bits, t = {target:g}: gradient in a logit from {settings.samples} samples, over "
            f"{settings.replicates:,} of them; and the loss above its minimum after {settings.steps:,} steps, {settings.fits} runs"
        )
        print_table(header, lines, title)
    print("the loss of the biased ones is that of the bits themselves, not of their relaxation")


if __name__ == "__main__":
    command(Discrete, run)
