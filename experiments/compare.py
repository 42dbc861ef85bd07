"""Which estimator should I use for my function, and is one of them wrong?

python -m experiments.compare --problem mine.py:problem
"""

import time
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.runner import command, progress, start
from experiments.settings import ONCE, Settings


class Compare(Settings):
    """Every estimator on one problem: variance, cost, efficiency = 1 / (variance x cost), and tests of bias.

    With no flags: the gradients of E[sin(10 x)], x ~ N(0, 1), where REINFORCE wins.
    """

    problem: str = "sine"
    """A shipped problem, or your own: package.module:attribute, or file.py:attribute."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "reparameterized+antithetic",
        "score_function",
        "score_function+leave_one_out",
        "score_function+optimal",
        "generalized",
        "rejection",
        "measure_valued",
        "enumerated",
        "arm",
        "disarm",
        "rebar",
    )
    """By name, or your own as module:function; those that refuse the problem are left out."""
    samples: Annotated[int, Field(ge=1, lt=2**31)] = 10
    """Of one gradient estimate, an integer."""
    budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """Seconds of measuring, without compilation; with --cost operations a second is 1e9 operations."""
    cost: Literal["time", "operations"] = "time"
    """Of a gradient: its measured time, or its operations (the same on every machine)."""


def run(settings: Compare) -> None:
    jax = start(settings.float_width)
    from experiments.compare_figure import draw_figure
    from experiments.compare_task import compared
    from experiments.measuring import tried
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    task = tried(settings, settings.problem, settings.estimators)
    with output_folder(settings.out, "compare") as folder:
        with progress(1.0, "compiling and measuring") as advance:
            comparison = compared(task, settings, jax.random.key(settings.seed), advance)
        rows: list[dict[str, Any]] = comparison.rows
        files = result_files("compare", settings, rows, time.monotonic() - began)
        files |= draw_figure(comparison, settings.problem)
        print(f"{settings.problem}\n\n{comparison}\n")
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")


if __name__ == "__main__":
    command(Compare, run)
