"""How fast is it, compared with NumPy, PyTorch, stock JAX and C? One run, contenders in turn, every result checked.

python -m experiments.benchmark
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings, PathText

Section = Literal["draws", "growth", "dimension", "fit", "sweep", "svi", "measuring", "cold", "precision"]
Rival = Literal[
    "numpy loop", "numpy threads", "torch eager", "torch.func", "torch.compile", "jax naive", "jax streamed", "C"
]
Samples = Annotated[int, Field(ge=1, le=2**24)]
Draws = Annotated[int, Field(ge=100_000, le=2**43)]
Dimension = Annotated[int, Field(ge=1, le=2**16)]


class BenchmarkSettings(ExperimentSettings):
    """Measures ratios of speed side by side: medians over rounds in which each contender has one turn.

    A draw is one normal number that gives one score-function and one reparameterized gradient of E[x^2], x ~ N(2, 1). The
    mean and the variance of both are accumulated over replicates of n draws each.
    """

    sections: Annotated[tuple[Section, ...], Field(min_length=1), ONCE] = (
        "draws",
        "growth",
        "dimension",
        "fit",
        "sweep",
        "svi",
        "measuring",
        "cold",
        "precision",
    )
    """Any of draws, growth (time and memory against the number of draws), dimension, fit, sweep, svi, measuring, cold and
    precision.
    """
    rivals: Annotated[tuple[Rival, ...], ONCE] = get_args(Rival)
    """Contenders besides rgrad. Those that are not installed are left out, with a note."""
    num_samples: Annotated[tuple[Samples, ...], Field(min_length=1), ONCE] = (10, 100, 1_000, 10_000, 100_000)
    """Samples in one gradient in the section draws, integers."""
    growth: Annotated[tuple[Draws, ...], Field(min_length=1), ONCE] = (
        1_000_000,
        10_000_000,
        100_000_000,
        1_000_000_000,
        10_000_000_000,
    )
    """Numbers of draws in the section growth, integers, at n = 1,000."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1), ONCE] = (1, 10, 100, 1_000)
    """D in the section dimension, integers."""
    steps: Annotated[int, Field(ge=200, le=2**24)] = 2_000
    """Steps of a fit, an integer."""
    fits: Annotated[int, Field(ge=10, le=2**20)] = 1_000
    """Simultaneous fits with each of two estimators, an integer."""
    cells: Annotated[int, Field(ge=3, le=2**24)] = 200
    """Cells in the section sweep, an integer. Each has 1e6 draws."""
    precision: Annotated[int, Field(ge=1_000, le=2**43)] = 1_000_000_000
    """Draws in the section precision, an integer."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Turns of each contender, an integer."""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.15
    """Approximate length of a turn in the sections draws and dimension, minimum length in fit."""
    read: PathText | None = None
    """Measure nothing. Write gpu.json and the README's table of GPUs from this file, the gpu.json of a run of .ci/gpu."""


TITLES = {
    "draws": "draws: speed-up over the contender",
    "growth": "growth, n = 1,000",
    "dimension": "dimension: speed-up over the contender",
    "fit": "fits: speed-up over the contender",
    "sweep": "sweep: speed-up over the contender",
    "svi": "NumPyro's SVI: speed-up over the contender",
    "measuring": "large gradients, many settings, many samples: speed-up over the contender",
    "cold": "a cold start",
    "precision": "precision",
}
NOTES = {
    "draws": "brackets: quartiles of {rounds} rounds; below 1 the contender is faster",
    "growth": "time of a draw relative to the last line; growth of peak memory since the first line",
    "dimension": "a sum of squares in D dimensions, 100 samples per gradient, moments of every coordinate",
    "fit": "{fits:,} simultaneous fits of {steps:,} steps with each of two estimators; rgrad runs each estimator in a thread",
    "sweep": "{cells:,} cells of 1e6 draws each; without compilation, except where each cell is compiled",
    "svi": "Bayesian logistic regression, 569 x 30, with an AutoNormal guide; compilation includes tracing",
    "measuring": "measure_total of 2e6 parameters; measure under vmap, 400 replicates; vimco; expect(chunk=8192) of 131,072 samples",
    "cold": "a fresh process from its first import, relative to import jax; 'programs kept': compiled programs cached on disk",
    "precision": "moments of {precision:,} draws accumulated in 32 bits, 10 per gradient, against the same draws in 64 bits",
}
UNITS = {
    "draws": "draws",
    "dimension": "coordinates",
    "fit": "steps",
    "sweep": "cells",
    "svi": "steps",
    "measuring": "gradients",
}
