"""How fast is it, compared with NumPy, PyTorch, stock JAX and C? One run, contenders in turn, every result checked.

python -m experiments.benchmark
"""

from typing import Annotated, Literal, get_args

from pydantic import Field

from experiments.common.settings import ONCE, ExperimentSettings, PathText

Section = Literal[
    "draws",
    "growth",
    "dimension",
    "fit",
    "sweep",
    "svi",
    "steps",
    "peers",
    "compile",
    "calls",
    "measuring",
    "cold",
    "precision",
]
Rival = Literal[
    "numpy loop", "numpy threads", "torch eager", "torch.func", "torch.compile", "jax naive", "jax streamed", "C"
]
Samples = Annotated[int, Field(ge=1, le=2**24)]
Draws = Annotated[int, Field(ge=100_000, le=2**43)]
Dimension = Annotated[int, Field(ge=1, le=2**20)]
Parameters = Literal[1_000, 100_000, 1_000_000, 10_000_000]


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
    """Any of draws, growth (time and memory against the number of draws), dimension, fit, sweep, svi, steps (of an
    optimiser, on real models), peers (other libraries), compile, calls (small ones), measuring, cold and precision.
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
    parameters: Annotated[tuple[Parameters, ...], Field(min_length=1), ONCE] = (1_000_000,)
    """Numbers of parameters of the network in the section measuring: 1000, 100000, 1000000 or 10000000."""
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
    peer_python: tuple[PathText, ...] = ()
    """Python interpreters of other environments. A library of the section peers that is not installed here is looked for in
    each of them.
    """
    read: PathText | None = None
    """Measure nothing. Write gpu.json and the README's table of GPUs from this file, the gpu.json of a run of .ci/gpu."""


TITLES = {
    "draws": "draws: speed-up over the contender",
    "growth": "growth, n = 1,000",
    "dimension": "dimension: speed-up over the contender",
    "fit": "fits: speed-up over the contender",
    "sweep": "sweep: speed-up over the contender",
    "svi": "NumPyro's SVI: speed-up over the contender",
    "steps": "an optimiser step: speed-up over the contender",
    "peers": "one gradient by other libraries: speed-up over them",
    "compile": "tracing and compilation of a gradient: speed-up over the same by hand",
    "calls": "small calls: speed-up over the same by hand",
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
    "steps": "Adam in a lax.scan under jax.jit; 'by hand' is plain JAX with jax.random",
    "peers": "normal: E[x^2] by the score function, 1,000 samples; bits: 200 of them, 100 samples; jitted if possible",
    "compile": "jit(grad(loss)) with 100 samples; the other is the same estimator in plain JAX with jax.random",
    "calls": "the score function of x^2 with n samples; measure of 100 replicates against jit(vmap(grad)) and its variance",
    "measuring": "networks with dropout, in calls of 64 inputs; measure under vmap, 400 replicates; vimco; expect(chunk=8192) of 131,072 samples",
    "cold": "a fresh process from its first import, relative to import jax; 'programs kept': compiled programs cached on disk",
    "precision": "moments of {precision:,} draws accumulated in 32 bits, 10 per gradient, against the same draws in 64 bits",
}
UNITS = {
    "draws": "draws",
    "dimension": "coordinates",
    "fit": "steps",
    "sweep": "cells",
    "svi": "steps",
    "steps": "steps",
    "peers": "gradients",
    "compile": "programs",
    "calls": "calls",
    "measuring": "gradients",
}
