"""Is any estimator wrong for any distribution?

python -m experiments.distributions
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field

from experiments.errors import UsageError
from experiments.runner import command, start
from experiments.settings import Settings

GOOD = ("ok", "refused", "nan", "noisy")


class Distributions(Settings):
    """Every estimator on every distribution of NumPyro that can be built, against its true gradient.

    Each is right within its error, or refused by name, or nan; what is not says WRONG or CRASHED, and the status is 1.
    """

    only: str = ""
    """Rows whose name contains this."""
    samples: Annotated[int, Field(ge=2, lt=2**31)] = 20
    """Of one gradient estimate."""
    replicates: Annotated[int, Field(ge=100)] = 4_000
    """How many gradient estimates."""


def run(settings: Distributions) -> int:
    # Nearly all of the time is compilation, and that of fast code is most of it.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    jax = start(settings.float_width)
    from experiments.distributions_table import rows
    from experiments.distributions_task import ESTIMATORS, cells
    from experiments.record import output_folder, result_files, write

    began = time.monotonic()
    with jax.enable_x64(True):
        chosen = [row for row in rows() if settings.only in row.name]
    if not chosen:
        raise UsageError(f"--only {settings.only}: no distribution has that in its name; try --only Normal")
    width = max(len(row.name) for row in chosen)
    found: list[Any] = []
    with output_folder(settings.out, "distributions") as folder, ThreadPoolExecutor(2) as threads:
        print(" " * width, *(f"{name.removeprefix('score_function+')[:9]:>9}" for name in ESTIMATORS))
        of = lambda row: cells(row, settings.samples, settings.replicates, settings.seed)
        for row, several in zip(chosen, threads.map(of, chosen), strict=True):
            found += several
            verdicts = {cell.estimator: cell.verdict for cell in several}
            print(f"{row.name:{width}}", *(f"{verdicts.get(e, ''):>9}" for e in ESTIMATORS), flush=True)
        print()
        bad = [cell for cell in found if cell.verdict not in GOOD]
        for cell in bad:
            print(f"{cell.verdict} {cell.row}, {cell.estimator}: {cell.detail[:300]}")
        counts = Counter(cell.verdict for cell in found)
        print(f"\n{len(chosen)} distributions, {len(found)} cells: " + ", ".join(f"{n} {v}" for v, n in counts.items()))
        rows_found: list[dict[str, Any]] = [cell._asdict() for cell in found]
        files = result_files("distributions", settings, rows_found, time.monotonic() - began)
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}")
    return 1 if bad else 0


if __name__ == "__main__":
    command(Distributions, run)
