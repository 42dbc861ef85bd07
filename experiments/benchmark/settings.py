"""How fast is it, beside NumPy, PyTorch, stock JAX and C? Everything in one run, in turn, with the results checked.

python -m experiments.benchmark
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings

Section = Literal["draws", "growth", "dimension", "fit", "sweep", "cold", "precision"]
Rival = Literal[
    "numpy loop", "numpy threads", "torch eager", "torch.func", "torch.compile", "jax naive", "jax streamed", "C"
]
Samples = Annotated[int, Field(ge=1, le=2**24)]
Draws = Annotated[int, Field(ge=100_000, le=2**43)]
Dimension = Annotated[int, Field(ge=1, le=2**16)]


class BenchmarkSettings(ExperimentSettings):
    """Ratios of speed, measured side by side: medians of rounds in which each contender has its turn.

    A draw is one normal number of which one score-function and one reparameterized gradient of E[x^2], x ~ N(2, 1), are
    made; means and variances of both are kept over replicates of N draws each.
    """

    sections: Annotated[tuple[Section, ...], Field(min_length=1), ONCE] = (
        "draws",
        "growth",
        "dimension",
        "fit",
        "sweep",
        "cold",
        "precision",
    )
    """Which of draws, growth (time and memory from few draws to many), dimension, fit, sweep, cold and precision."""
    rivals: Annotated[tuple[Rival, ...], ONCE] = get_args(Rival)
    """Which others; those that are not installed here are left out, with a word."""
    num_samples: Annotated[tuple[Samples, ...], Field(min_length=1), ONCE] = (10, 100, 1_000, 10_000, 100_000)
    """N of the section draws, integers."""
    growth: Annotated[tuple[Draws, ...], Field(min_length=1), ONCE] = (
        1_000_000,
        10_000_000,
        100_000_000,
        1_000_000_000,
        10_000_000_000,
    )
    """How many draws, integers, at N = 1,000."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1), ONCE] = (1, 10, 100, 1_000)
    """D of the section dimension, integers."""
    steps: Annotated[int, Field(ge=200, le=2**24)] = 2_000
    """Of a fit, an integer."""
    fits: Annotated[int, Field(ge=10, le=2**20)] = 1_000
    """How many fits at once by each of two estimators, an integer."""
    cells: Annotated[int, Field(ge=3, le=2**24)] = 200
    """Of the section sweep, an integer; each of 1e6 draws."""
    precision: Annotated[int, Field(ge=1_000, le=2**43)] = 1_000_000_000
    """How many draws precision is measured over, an integer."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 5
    """How many times each contender has its turn, an integer."""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 0.15
    """Of each turn in the sections draws and dimension, about; of one in fit at least."""


TITLES = {
    "draws": "draws: times as fast as the other",
    "growth": "growth, N = 1,000",
    "dimension": "dimension: times as fast as the other",
    "fit": "fits: times as fast as the other",
    "sweep": "sweep: times as fast as the other",
    "cold": "a cold start",
    "precision": "precision",
}
NOTES = {
    "draws": "brackets: quartiles of {rounds} rounds; under 1 the other is faster",
    "growth": "the time of a draw in units of the last line's; by how much the peak of memory has grown since the first",
    "dimension": "a sum of squares in D dimensions, 100 draws a gradient, the moments of every coordinate",
    "fit": "{fits:,} fits at once of {steps:,} steps by each of two estimators, by rgrad in a thread each",
    "sweep": "{cells:,} cells of 1e6 draws each; compilation is left out, but where each cell is compiled",
    "cold": "a fresh process, from its first import on, in units of import jax; with the programs of an earlier one kept on disk",
    "precision": "moments streamed in 32 bits of {precision:,} draws, 10 a gradient, beside the same draws in 64 bits",
}
UNITS = {"draws": "draws", "dimension": "coordinates", "fit": "steps", "sweep": "cells"}
