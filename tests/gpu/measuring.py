"""Part d1: draws per second of `rgrad.measure` for both gradients of the post's problem, by n and batch."""

import json
import math
import statistics
from functools import partial
from typing import Any

import jax

import rgrad
from tests.gpu.context import Context, seconds_of
from tests.gpu.machine import memory
from tests.gpu.post import NAMES, post, post_errors, right
from tests.gpu.report import say

OWN = "as it chooses"


def label_of(n: int, flight: int | None) -> str:
    return f"n = {n}, " + (OWN if flight is None else f"2^{int(math.log2(flight))} in flight")


def measure_rates(ctx: Context) -> None:
    sizes = ctx.size([1_000, 10, 100_000, 100], [1_000, 10])
    flights = ctx.size([2**26, 2**24, 2**22, 2**19], [])
    seconds = ctx.size(0.8, 0.03)
    draws = {n: post(n) for n in sizes}
    batch_of = lambda n, flight: flight and 2 ** max(0, round(math.log2(flight / n)))
    variants = [(n, flight) for flight in (None, *flights) for n in sizes]

    def warm(n: int, flight: int | None) -> float:
        return seconds_of(lambda: rgrad.measure(draws[n], jax.random.key(0), 2, batch=batch_of(n, flight)))[0]

    built = ctx.in_threads({json.dumps(v): partial(warm, *v) for v in variants})
    for n, flight in variants:
        label, first = label_of(n, flight), built.get(json.dumps((n, flight)))
        if isinstance(first, BaseException):
            ctx.failed(label, first)
            continue
        enough = 2.5 * seconds if flight is None else seconds
        if first is None or not ctx.enough(enough, label):
            continue
        few = (seconds, 3) if flight is None else (seconds / 2, 2)
        try:
            found = rate(draws[n], n, batch_of(n, flight), ctx.size(2**24, 2**14), *few)
        except Exception as error:
            ctx.failed(label, error)
            continue
        ctx.row(label, n=n, **found, **{"first call in seconds, while others ran": first})
        ctx.check(label, right(found), **{name: found[name] for name in NAMES})
        say(f"   {label}: {found['rate']:.3g} draws/s")
    ctx.note("memory", memory())
    ctx.note("best", best_of(ctx.mine["rows"]))


def rate(draw: Any, n: int, batch: int | None, least: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Draws per second, from the median of a few calls of about `seconds` each. At least `least` draws in a call."""
    replicates = max(64, least // n)
    while True:
        took, moments = seconds_of(lambda: rgrad.measure(draw, jax.random.key(1), replicates, batch=batch))
        if took > seconds / 3 or replicates * n > 2**40:
            break
        replicates = int(replicates * min(32, max(2, seconds / max(took, 1e-4))))
    times = [took]
    for i in range(repeats - 1):
        took, moments = seconds_of(lambda i=i: rgrad.measure(draw, jax.random.key(2 + i), replicates, batch=batch))
        times.append(took)
    return {"rate": replicates * n / statistics.median(times), "seconds": times, "batch": batch} | post_errors(
        moments, n
    )


def best_of(rows: dict[str, Any]) -> dict[str, Any]:
    """By n: the best rate, how it was reached, and the rate with the batch that `measure` chooses."""
    best: dict[str, Any] = {}
    for label, row in rows.items():
        of = best.setdefault(str(row["n"]), {"rate": 0.0, "default": None})
        if row["rate"] > of["rate"]:
            of |= {"rate": row["rate"], "how": label, "batch": row["batch"]}
        if label.endswith(OWN):
            of["default"] = row["rate"]
    return best


def speed_ups(ctx: Context, best: dict[str, Any]) -> dict[str, Any]:
    """Of the best rates of a rival, whose names start with n: how many times as fast `measure` is."""
    ours = ctx.of("d1", "notes", "best", {})
    for name, found in best.items():
        mine = ours.get(name.split()[0], {})
        if mine.get("default"):
            found |= {
                "speed-up of rgrad": mine["default"] / found["rate"],
                "with its best batch": mine["rate"] / found["rate"],
            }
    return best
