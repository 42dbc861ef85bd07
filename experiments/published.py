"""Does this library give what others have published? Each published value beside ours, and how far they are apart.

python -m experiments.published
"""

import math
import time
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Common

LIMIT = 5.0  # |z| beyond which a value disagrees: by accident, once in 1.7 million values that are normal
Source = Literal["post", "mohamed", "gal", "naesseth"]
Size = Literal[10, 100, 1_000, 10_000, 100_000]
Steps = Literal[0, 1, 3, 10]


class Published(Common):
    """Published means and variances of gradient estimates, measured again.

    Exit status 1 where one disagrees: |z| > 5, with z the distance in standard errors, ours and the source's together.
    """

    sources: Annotated[tuple[Source, ...], Field(min_length=1), ONCE] = ("post", "mohamed", "gal", "naesseth")
    """Of post (Javed 2018), mohamed (Mohamed et al. 2020), gal (Gal 2016) and naesseth (Naesseth et al. 2017)."""
    sizes: Annotated[tuple[Size, ...], Field(min_length=1), ONCE] = (10, 100, 1_000, 10_000, 100_000)
    """Of the post's N: how many samples an estimate is made of."""
    augmentation: Annotated[tuple[Steps, ...], Field(min_length=1), ONCE] = (0, 1, 3, 10)
    """Of naesseth's B: how often the rejection sampler raises the shape."""
    post_replicates: Annotated[int, Field(ge=100, lt=2**31)] = 2_000
    """How many independent estimates of each size for the post, which has up to 100,000 samples in one, an integer."""
    replicates: Annotated[int, Field(ge=1000, lt=2**31)] = 1_000_000
    """How many independent estimates, of one sample each, for mohamed and gal, an integer."""
    dirichlet_replicates: Annotated[int, Field(ge=1000, lt=2**31)] = 40_000
    """How many independent estimates, of one sample of a hundred numbers each, for naesseth, an integer."""


def run(settings: Published) -> int:
    jax = start(settings.float_width)
    import numpyro

    from experiments.published_figure import draw_figure
    from experiments.published_sources import RUN
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    numpyro.enable_validation(False)  # the parameters are our own; to check them at every trace takes seconds
    with output_folder(settings.out, "published") as folder:
        rows = []
        with progress(len(settings.sources), "measuring") as advance:
            for source in settings.sources:
                # Each source has a key of its own, whichever others are asked for.
                key = jax.random.fold_in(jax.random.key(settings.seed), list(RUN).index(source))
                rows += RUN[source](settings, key, advance)
        files = result_files("published", settings, rows, time.monotonic() - began)
        files |= draw_figure(rows, LIMIT)
        disagree = report(rows)
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")
    return 1 if disagree else 0


def report(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table for each source, and the verdict; returns the rows that disagree."""
    header = ["quantity", "estimator", "d/d", "published", "+-", "ours", "95 % interval", "z"]
    for source in dict.fromkeys(row["source"] for row in rows):
        lines = [
            [
                r["quantity"], r["estimator"], r["parameter"], number(r["published"]), number(r["published_error"], 2),
                number(r["ours"]), f"[{number(r['low'])}, {number(r['high'])}]", f"{r['z']:+.2f}",
            ]
            for r in rows if r["source"] == source
        ]  # fmt: skip
        print_table(header, lines, source)
    disagree = [r for r in rows if not abs(r["z"]) <= LIMIT]  # so that nan disagrees
    worst = max((abs(r["z"]) for r in rows if math.isfinite(r["z"])), default=math.nan)
    print(
        f"{len(rows)} published values, {len(disagree)} disagree (|z| > {LIMIT:g}); the largest finite |z| is {worst:.2f}"
    )
    for r in disagree:
        print(
            f"disagrees: {r['source']}: {r['quantity']}, {r['estimator']}, d/d {r['parameter']}: published "
            f"{number(r['published'])}, ours {number(r['ours'])} [{number(r['low'])}, {number(r['high'])}], z = {r['z']:+.1f}"
        )
    return disagree


if __name__ == "__main__":
    command(Published, run)
