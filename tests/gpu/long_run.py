"""Part d4: time and memory as the number of draws grows, and one long run: 1e12 draws if the time suffices."""

import threading
from typing import Any

import jax

import rgrad
from tests.gpu.context import Context, seconds_of
from tests.gpu.machine import memory, nvidia_smi
from tests.gpu.post import NAMES, post, post_errors, right
from tests.gpu.report import say

N = 1_000
WATCHED = "clocks.sm,power.draw,utilization.gpu,temperature.gpu,memory.used,clocks_event_reasons.active"


def long_run(ctx: Context) -> None:
    draw = post(N)
    rgrad.measure(draw, jax.random.key(0), 2)
    rate = ctx.of("d1", "notes", "best", {}).get(str(N), {}).get("default")
    if not rate:
        trial = ctx.size(2**20, 2**10)
        rate = trial * N / seconds_of(lambda: rgrad.measure(draw, jax.random.key(0), trial))[0]
    for draws in ctx.size([1e6, 1e8, 1e10, 1e11], [1e6]):
        if ctx.enough(3 * draws / rate, f"{draws:.0e} draws"):
            seconds, _ = seconds_of(lambda draws=draws: rgrad.measure(draw, jax.random.key(1), int(draws // N)))
            ctx.row(f"{draws:.0e} draws", draws=draws, seconds=seconds, rate=draws / seconds, memory=memory())
    seconds = 0.65 * ctx.left()
    fitting = [draws for draws in ctx.size([1e12, 1e11, 1e10, 1e9], [2e6]) if draws / rate < seconds]
    draws = fitting[0] if fitting else rate * seconds
    run_long(ctx, draw, max(2, int(draws // N)), draws / rate)


def run_long(ctx: Context, draw: Any, replicates: int, expected: float) -> None:
    """Measure this many replicates, and record clocks and power in the middle."""
    smi: dict[str, str] = {}
    watch = threading.Timer(0.5 * expected, lambda: smi.update(nvidia_smi(WATCHED)))
    before = memory()
    watch.start()
    took, moments = seconds_of(lambda: rgrad.measure(draw, jax.random.key(2026), replicates))
    watch.join(25)
    found = post_errors(moments, N)
    rate = replicates * N / took
    more = {"memory before": before, "memory after": memory(), "nvidia-smi in the middle": smi}
    ctx.row("long run", draws=replicates * N, seconds=took, rate=rate, **more, **found)
    ctx.check("means and variances", right(found), **found)
    score, path = (found[name]["variance x n"] for name in NAMES)
    say(f"   {replicates * N:.3g} draws in {took:.2f} s: {rate:.3g}/s; variance x n {score:.6f} and {path:.7f}; {smi}")
