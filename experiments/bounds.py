"""Does a tighter bound give a better gradient? The signal-to-noise ratio against K, near the optimum and far from it.

python -m experiments.bounds
"""

import time
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.errors import UsageError
from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Common

Rule = Literal["reparameterized", "doubly_reparameterized", "sticking_the_landing", "score_function", "vimco"]
Samples = Annotated[int, Field(ge=1, lt=2**20)]
Distance = Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)]
RESOLVED = 2.0  # noise floors; a ratio under so many of them is mostly noise


class Bounds(Common):
    """The signal-to-noise ratio of gradient estimates of the K-sample bound, in the linear-Gaussian model.

    z ~ N(mu, I), x|z ~ N(z, I), q(z|x) = N(A x + b, 2/3 I); A and b are the inference network's, mu the model's. A
    gradient is that of the mean bound over all data points, each with K samples of its own; its ratio |mean| / sd is
    averaged over the coordinates.
    """

    estimators: Annotated[tuple[Rule, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "doubly_reparameterized",
        "sticking_the_landing",
    )
    """Of reparameterized (IWAE), doubly_reparameterized (DReG), sticking_the_landing, score_function and vimco."""
    samples: Annotated[tuple[Samples, ...], Field(min_length=1), ONCE] = (1, 4, 16, 64, 256)
    """K: how many samples a bound is made of, integers."""
    perturbations: Annotated[tuple[Distance, ...], Field(min_length=1), ONCE] = (0.01, 0.5)
    """How far from the optimum: the standard deviation of what is added to each parameter."""
    data_points: Annotated[int, Field(ge=1, lt=2**20)] = 1_024
    """How many x are drawn from the model, an integer."""
    dimension: Annotated[int, Field(ge=1, le=200)] = 20
    """Of x and z, an integer."""
    replicates: Annotated[int, Field(ge=20, lt=2**31)] = 60
    """How many independent gradients each ratio is measured over; 1/sqrt(this) cannot be told from 0."""


def run(settings: Bounds) -> None:
    if "vimco" in settings.estimators and 1 in settings.samples:
        raise UsageError("--samples: vimco with K = 1 has no other sample to make a baseline of; give K of 2 or more")
    jax = start(settings.float_width)
    import numpyro

    from experiments.bounds_figure import draw_figure
    from experiments.bounds_task import measured_rows
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    numpyro.enable_validation(False)  # the parameters are our own; to check them at every trace takes seconds
    with output_folder(settings.out, "bounds") as folder:
        with progress(sum(settings.samples), "measuring") as advance:
            rows = measured_rows(settings, jax.random.key(settings.seed), advance)
        files = result_files("bounds", settings, rows, time.monotonic() - began)
        files |= draw_figure(rows, RESOLVED)
        report(rows, settings)
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")


def report(rows: list[dict[str, Any]], settings: Bounds) -> None:
    """A table for each distance: the ratios, with K along the line."""
    for distance in settings.perturbations:
        lines: dict[tuple[str, str], list[str]] = {}
        for r in rows:
            if r["perturbation"] == distance:
                mark = "~" if r["snr"] < RESOLVED * r["floor"] else ""
                line = lines.setdefault((r["parameter"], r["estimator"]), [])
                line.append(f"{mark}{number(r['snr'], 3)} +- {number((r['snr_high'] - r['snr_low']) / 2, 1)}")
        print_table(
            ["d/d", "estimator", *(f"K = {k:,}" for k in settings.samples)],
            [[*names, *line] for names, line in lines.items()],
            f"signal-to-noise ratio and its 95 % interval, parameters within {distance:g} of the optimum",
        )
    print(
        f"~ under twice the noise floor of {settings.replicates:,} replicates, {rows[0]['floor']:.2g}: mostly noise, "
        "and no more than an upper bound"
    )
    norms = {(r["estimator"], r["perturbation"], r["k"]): r["norm"] for r in rows if r["parameter"] == "A"}
    k = max(settings.samples)
    for distance in settings.perturbations:
        biased, right = (norms.get((name, distance, k)) for name in ("sticking_the_landing", "doubly_reparameterized"))
        if k > 1 and biased and right:
            print(
                f"sticking_the_landing is biased: within {distance:g} of the optimum, at K = {k:,}, its mean gradient "
                f"for A is {number(biased / right, 3)} times as long as the right one"
            )


if __name__ == "__main__":
    command(Bounds, run)
