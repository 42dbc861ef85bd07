"""The sections of `experiments.benchmark` that need fresh processes: growth of memory, and a cold start."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmark.rivals import CONTENDERS, OURS
from experiments.benchmark.study import PER_CALL, Row, check, device_of, quartiles, row, seconds_of
from experiments.common.interrupt import cleaned
from experiments.common.progress import Advance


def child(code: str, *arguments: Any, **environment: str) -> list[Any]:
    """The output of a fresh Python process, which prints one JSON value per line."""
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    here = str(Path(__file__).parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, env.get("PYTHONPATH")]))
    env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process already holds the memory of the GPU
    command = [sys.executable, "-c", code, *map(str, arguments)]
    started = subprocess.Popen(
        command, env=env | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with started as process, cleaned(process.kill):
        out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a fresh process failed: {err[-2000:]}")
    return [json.loads(line) for line in out.splitlines()]


GROWTH = "import sys; from experiments.benchmark.processes import grow; grow(*map(int, sys.argv[1:]))"


def grow(seed: int, rounds: int, *counts: int) -> None:
    """Runs in its own process. Prints the time of `counts` draws, and how much peak memory has grown since the first."""
    import resource

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    job = CONTENDERS[OURS](PER_CALL)
    job(-(-counts[0] // PER_CALL), seed)
    first = peak()
    for count in counts:
        replicates, took = -(-count // PER_CALL), list[float]()
        while not took or (len(took) < rounds and sum(took) < 2):
            seconds, result = seconds_of(partial(job, replicates, seed + len(took)))
            check(OURS, PER_CALL, result)
            took.append(seconds)
        print(json.dumps({"draws": replicates * PER_CALL, "seconds": took, "megabytes": peak() - first}), flush=True)


def growth_section(settings: Any, advance: Advance) -> list[Row]:
    """The time of a draw relative to that at the largest count, and the growth of peak memory."""
    said = child(GROWTH, settings.seed, settings.rounds, *sorted(settings.growth))
    advance(1)
    last = statistics.median(said[-1]["seconds"]) / said[-1]["draws"]
    rows = []
    for line in said:
        low, times, high = quartiles([s / line["draws"] / last for s in line["seconds"]])
        seconds = statistics.median(line["seconds"])
        rows.append(
            row(
                "growth", OURS, line["draws"], device=device_of(OURS), rounds=len(line["seconds"]),
                rate=line["draws"] / seconds, times=times, times_low=low, times_high=high, seconds=seconds,
                megabytes=line["megabytes"],
            )
        )  # fmt: skip
    return rows


COLD = """
import json, sys, time
began = time.perf_counter()
import jax
jax_there = time.perf_counter()
import rgrad
rgrad_there = time.perf_counter()
rgrad.expect
numpyro_there = time.perf_counter()
import numpyro.distributions as dist
def loss(theta, key, estimator):
    return rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, 1000, estimator)
def draw(key):
    return [jax.grad(loss)(2.0, key, e) for e in (rgrad.score_function, rgrad.reparameterized)]
moments = rgrad.measure(draw, jax.random.key(0), 1000)
assert 3 < float(moments.mean[0]) < 5
there = time.perf_counter()
print(json.dumps([jax_there - began, rgrad_there - jax_there, numpyro_there - rgrad_there, there - numpyro_there]))
"""


def cold_section(settings: Any, advance: Advance) -> list[Row]:
    """The time to import jax, to import rgrad after it, to use rgrad (which imports NumPyro), and to a first result.

    All times are relative to the first.
    """
    with tempfile.TemporaryDirectory() as cache:
        kept = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        child(COLD, **kept)  # fills the cache, and reads all files once
        runs = []
        for _ in range(settings.rounds):
            runs.append((child(COLD)[0], child(COLD, **kept)[0]))
            advance(1 / settings.rounds)
    parts = {
        "import jax": [r[0][0] for r in runs],
        "import rgrad after it": [r[0][1] for r in runs],
        "its first use, with NumPyro": [r[0][2] for r in runs],
        "first result": [sum(r[0]) for r in runs],
        "first result, programs kept": [sum(r[1]) for r in runs],
    }
    rows = []
    for name, seconds in parts.items():
        low, times, high = quartiles([s / r[0][0] for s, r in zip(seconds, runs, strict=True)])
        rows.append(
            row(
                "cold", name, 1, device=device_of(OURS), rounds=len(seconds), times=times, times_low=low, times_high=high,
                seconds=statistics.median(seconds),
            )
        )  # fmt: skip
    return rows
