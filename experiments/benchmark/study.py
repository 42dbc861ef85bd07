"""The measurements of `experiments.benchmark`: contenders take turns in rounds, and every result is checked."""

import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.benchmark import fit as benchmark_fit
from experiments.benchmark import sweep as benchmark_sweep
from experiments.benchmark.rivals import (
    CONTENDERS,
    CORES,
    OURS,
    THETA,
    Job,
    Missing,
    RivalMoments,
    WrongResult,
    rows_for,
)
from experiments.common.progress import Advance

Row = dict[str, Any]
SLACK = 8.0  # largest error of a correct result, in standard errors
ROUNDING = 1e-4  # largest relative error of 32-bit sums
PER_CALL = 1_000  # samples in one gradient if n is not varied
FEWEST = 64  # replicates, so that the variance can be checked
LEAST = 2**20  # draws in a turn: `measure` computes up to 65,536 replicates at once, and fewer are slower per draw
LEAST_OF = {"numpy loop": 2**14}
FIELDS = ("section", "contender", "n", "device", "rounds", "rate", "times", "times_low", "times_high", "seconds",
          "megabytes", "error")  # fmt: skip


def row(section: str, contender: str, n: int, **values: Any) -> Row:
    """A row. `n` is the number of samples in a call, of draws, of dimensions, or of steps of all fits. Missing fields are None."""
    return {**dict.fromkeys(FIELDS), "section": section, "contender": contender, "n": n, **values}


def check(name: str, n: int, got: RivalMoments, slack: float = SLACK) -> None:
    """Checks that the mean is 2 theta and the variances per call are 87/n and 4/n, within `slack` standard errors.

    The standard error of a variance follows from the kurtosis of a call: 3 + 23.8/n for the score function, 3 for the
    reparameterized gradient.

    Raises:
        WrongResult: a value is off.
    """
    for i, (estimator, variance, excess) in enumerate(
        (("score function", 87.0, EXCESS), ("reparameterized", 4.0, 0.0))
    ):
        error = (variance / n / got.replicates) ** 0.5
        relative = ((2 + excess / n) / (got.replicates - 1)) ** 0.5
        mean, measured = got.mean[i], got.variance[i] * n
        if not (
            abs(mean - 2 * THETA) <= slack * error + ROUNDING * 2 * THETA
            and abs(measured / variance - 1) <= slack * relative + ROUNDING
        ):
            raise WrongResult(
                f"{name}, {estimator}, N = {n:,}, {got.replicates:,} replicates: mean {mean:.6g} (expected {2 * THETA:g}), "
                f"variance per sample {measured:.6g} (expected {variance:g})"
            )


def _excess() -> float:
    """The excess kurtosis of (theta + e)^2 e for standard normal e and theta = 2, from the moments E e^k = (k - 1)!!."""
    g = np.polynomial.Polynomial([-2 * THETA, THETA**2, 2 * THETA, 1.0])
    expect = lambda p: sum(c * np.prod(np.arange(k - 1, 0, -2.0)) for k, c in enumerate(p.coef) if k % 2 == 0)
    return float(expect(g**4) / expect(g**2) ** 2 - 3)


EXCESS = _excess()


def device_of(name: str) -> str:
    if name.startswith((OURS, "jax", "loop")):
        return jax.devices()[0].device_kind
    if name.startswith("torch"):
        torch = sys.modules["torch"]
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return "cpu"


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, median, high


def in_turn(jobs: Mapping[Any, Callable[[int], float]], rounds: int, advance: Advance) -> dict[Any, list[float]]:
    """The result of each job in each round. Every job has one turn in a round, and each round starts with another job."""
    said: dict[Any, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for r in range(rounds):
        k = r % len(names)
        for name in names[k:] + names[:k]:
            said[name].append(jobs[name](r))
            advance(1 / len(names) / rounds)
    return said


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def calibrated(name: str, n: int, job: Job, seconds: float, seed: int) -> int:
    """The number of replicates, a power of two, that takes about `seconds`. Also checks a first result."""
    replicates = max(FEWEST, rows_for(n, LEAST_OF.get(name, LEAST)))
    job(FEWEST, seed)  # compiles
    while True:
        took, result = seconds_of(partial(job, replicates, seed))
        if took > seconds / 1.5 or replicates >= 2**40:
            check(name, n, result)
            return replicates
        replicates *= 2 ** max(1, min(4, round(np.log2(seconds / took))))


def timed(name: str, n: int, job: Job, replicates: int, seed: int, turn: int) -> float:
    """Draws per second."""
    took, result = seconds_of(partial(job, replicates, seed + (turn + 1) * 2**24))
    check(name, n, result)
    return result.replicates * n / took


def draws_section(settings: Any, left_out: dict[str, str], advance: Advance) -> list[Row]:
    """Draws per second for each n, for all contenders."""
    rows = []
    for n in settings.num_samples:
        jobs = {}
        for name in (OURS, *settings.rivals):
            if name in left_out:
                continue
            try:
                job = CONTENDERS[name](n)
                replicates = calibrated(name, n, job, settings.seconds, settings.seed)
            except Missing as why:
                left_out[name] = str(why)
                continue
            jobs[name] = partial(timed, name, n, job, replicates, settings.seed)
        rates = in_turn(jobs, settings.rounds, advance)
        rows += compared("draws", n, rates, n)
        gc.collect()
    return rows


def compared(section: str, n: int, rates: Mapping[str, list[float]], per_call: float) -> list[Row]:
    """A row for each contender: our speed-up over it in the same round."""
    rows = []
    for name, mine in rates.items():
        low, times, high = quartiles([a / b for a, b in zip(rates[OURS], mine, strict=True)])
        rate = statistics.median(mine)
        rows.append(
            row(
                section, name, n, device=device_of(name), rounds=len(mine), rate=rate, times=times, times_low=low,
                times_high=high, seconds=per_call / rate,
            )
        )  # fmt: skip
    return rows


def dimension_section(settings: Any, advance: Advance) -> list[Row]:
    """Coordinates drawn per second, for the sum of squares of x ~ N(theta, I) in D dimensions, with moments per coordinate."""
    rows = []
    for dimension in settings.dimensions:
        jobs = {}
        for name, make in {OURS: ours_of_dimension, "jax streamed": streamed_of_dimension}.items():
            if name != OURS and name not in settings.rivals:
                continue
            job = make(dimension)
            replicates = max(FEWEST, rows_for(IN_DIMENSIONS * dimension, LEAST))
            job(FEWEST, settings.seed)  # compiles
            while (took := seconds_of(partial(job, replicates, settings.seed))[0]) < settings.seconds / 1.5:
                replicates *= 2 ** max(1, min(4, round(np.log2(settings.seconds / took))))
            jobs[name] = partial(timed_of_dimension, name, dimension, job, replicates, settings.seed)
        rates = in_turn(jobs, settings.rounds, advance)
        rows += compared("dimension", dimension, rates, dimension)
    return rows


IN_DIMENSIONS = 100  # samples in one gradient in this section


def ours_of_dimension(dimension: int) -> Any:
    def loss(theta: Any, key: Array, estimator: rgrad.Estimator) -> Array:
        q = dist.Normal(theta, 1.0).to_event(1)
        return rgrad.expect(lambda x: jnp.sum(x**2), q, key, IN_DIMENSIONS, estimator)

    def draw(key: Array) -> Any:
        theta = jnp.full(dimension, THETA)
        return tuple(jax.grad(loss)(theta, key, e) for e in (rgrad.score_function, rgrad.reparameterized))

    def job(replicates: int, seed: int) -> Any:
        moments = rgrad.measure(draw, jax.random.key(seed), replicates)
        return replicates, moments.mean, moments.variance

    return job


def streamed_of_dimension(dimension: int) -> Any:
    rows = rows_for(IN_DIMENSIONS * dimension, 2**18)

    @jax.jit
    def sums(key: Array, batches: Any) -> Any:
        def batch(i: Any, sums: Any) -> Any:
            e = jax.random.normal(jax.random.fold_in(key, i), (rows, IN_DIMENSIONS, dimension))
            x = THETA + e
            score, path = jnp.mean(jnp.sum(x**2, 2, keepdims=True) * e, 1), jnp.mean(2 * x, 1)
            g, h = score - 2 * THETA, path - 2 * THETA
            return jax.tree.map(jnp.add, sums, (g.sum(0), (g * g).sum(0), h.sum(0), (h * h).sum(0)))

        return jax.lax.fori_loop(0, batches, batch, (jnp.zeros(dimension),) * 4)

    def job(replicates: int, seed: int) -> Any:
        batches = -(-replicates // rows)
        a, aa, b, bb = (np.asarray(s, np.float64) / (batches * rows) for s in sums(jax.random.key(seed), batches))
        return batches * rows, (2 * THETA + a, 2 * THETA + b), (aa - a * a, bb - b * b)

    return job


def timed_of_dimension(name: str, dimension: int, job: Any, replicates: int, seed: int, turn: int) -> float:
    """Coordinates per second. Checks averages over the coordinates.

    The mean is 2 theta in each coordinate. The variances are 4/n and, with f = x_i^2 + S, `(87 + 14 E S + E S^2) / n`,
    where S has D - 1 terms with mean 5 and variance 18.
    """
    took, (count, mean, variance) = seconds_of(partial(job, replicates, seed + (turn + 1) * 2**24))
    others = dimension - 1
    exact = (87 + 14 * 5 * others + 18 * others + (5 * others) ** 2, 4.0)
    for estimator, m, v, truth in zip(("score function", "reparameterized"), mean, variance, exact, strict=True):
        error = (truth / IN_DIMENSIONS / count) ** 0.5
        spread = ((2 + EXCESS / IN_DIMENSIONS) / (count - 1)) ** 0.5
        got, per_sample = float(np.mean(m)), float(np.mean(v)) * IN_DIMENSIONS
        if not (
            abs(got - 2 * THETA) <= SLACK * error + ROUNDING * 2 * THETA
            and abs(per_sample / truth - 1) <= SLACK * spread
        ):
            raise WrongResult(
                f"{name}, {estimator}, {dimension:,} dimensions: mean {got:.6g} (expected {2 * THETA:g}), variance per "
                f"sample {per_sample:.6g} (expected {truth:g})"
            )
    return count * IN_DIMENSIONS * dimension / took


def fit_section(settings: Any, left_out: dict[str, str], advance: Advance) -> list[Row]:
    """Steps per second, over all fits together."""
    jobs: dict[str, Callable[[int], float]] = {}

    def timed_fits(name: str, job: benchmark_fit.FitJob, turn: int) -> float:
        took, times = 0.0, 0
        while took < settings.seconds:
            seconds, fitted = seconds_of(partial(job, settings.seed + turn + times * 2**24))
            benchmark_fit.check(name, fitted)
            took, times = took + seconds, times + 1
        return times * 2 * settings.fits * settings.steps / took

    for name, make in benchmark_fit.CONTENDERS.items():
        if name != OURS and name not in settings.rivals:
            continue
        try:
            job = make(settings.steps, settings.fits)
        except Missing as why:
            left_out[name] = str(why)
            continue
        job(settings.seed)  # compiles
        jobs[name] = partial(timed_fits, name, job)
    rates = in_turn(jobs, settings.rounds, advance)
    total = 2 * settings.fits * settings.steps
    return compared("fit", total, rates, total)


def sweep_section(settings: Any, advance: Advance) -> list[Row]:
    """Cells per second. Each cell has 1e6 draws."""
    jobs = {name: make(settings.cells) for name, make in benchmark_sweep.CONTENDERS.items()}
    rates = in_turn(jobs, settings.rounds, advance)
    return compared("sweep", settings.cells, rates, benchmark_sweep.SIZE * benchmark_sweep.REPLICATES)


SMALL_CALL = 10  # samples in one call in this section, so that there are many replicates


def precision_section(settings: Any, advance: Advance) -> list[Row]:
    """Relative errors of moments accumulated in 32 bits, against the same 32-bit draws accumulated in 64 bits."""

    def draw(key: Array) -> Array:
        def loss(theta: Any, estimator: rgrad.Estimator) -> Array:
            q = dist.Normal(theta, jnp.float32(1))
            return rgrad.expect(lambda x: x**2, q, key, SMALL_CALL, estimator)

        with jax.enable_x64(False):
            theta = jnp.float32(THETA)
            return jnp.stack([jax.grad(loss)(theta, e) for e in (rgrad.score_function, rgrad.reparameterized)])

    key, replicates = jax.random.key(settings.seed), -(-settings.precision // SMALL_CALL)
    moments = []
    for wide in (False, True):
        with jax.enable_x64(True) if wide else nullcontext():
            exactly = (lambda key: draw(key).astype(jnp.float64)) if wide else draw
            moments.append(rgrad.measure(exactly, key, replicates))
        advance(0.5)
    rows = []
    for i, name in enumerate(("score function", "reparameterized")):
        for kind in ("mean", "variance"):
            got, truth = (float(getattr(m, kind)[i]) for m in moments)
            rows.append(row("precision", f"{name}: {kind}", replicates * SMALL_CALL, device=device_of(OURS), rounds=1, error=abs(got / truth - 1)))  # fmt: skip
    return rows


def machine() -> dict[str, Any]:
    """The machine of this run."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = ""
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": CORES,
        "device": jax.devices()[0].device_kind,
    }
