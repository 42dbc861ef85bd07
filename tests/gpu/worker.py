"""The process that runs the parts, one after the other, until they are done or the time is over."""

import ctypes
import importlib
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.gpu.context import Context, SkippedPart
from tests.gpu.report import Report, named, say
from tests.gpu.table import PARTS, STUBS

LEAST = 4.0  # no part starts if fewer seconds are left


class Orders(NamedTuple):
    """What the process has to do."""

    out: str
    parts: list[str]
    deadline: float
    """As in `time.time()`."""
    rehearse: bool
    faults: dict[str, str]
    """By part: raise, crash, hang or kill. For tests."""
    limit: float
    """The most seconds for one part. For tests."""


def work(orders: Orders) -> None:
    """Run the parts. This function does not return, because threads of the last part may still be compiling."""
    end_with_parent()
    importlib.import_module("rgrad")  # it sets an XLA flag, so it is imported before JAX starts
    report = Report(Path(orders.out))
    workers = 2 if orders.rehearse else max(2, min(12, len(os.sched_getaffinity(0)) - 2))
    every = PARTS | STUBS
    for i, name in enumerate(orders.parts):
        left = orders.deadline - time.time()
        part, mine = every[name], report.part(name)
        if left < LEAST:
            mine |= {"state": "skipped", "title": part.title, "error": "no time was left"}
            report.save()
            say(f"{name:3s} skipped: no time is left ({part.title})")
            continue
        budget = max(LEAST, left * part.share / sum(every[other].share for other in orders.parts[i:]))
        # Most parts need less than their share, and the next ones get the rest. So each may take half as much again.
        budget = min(left, 1.5 * budget, orders.limit)
        began = time.time()
        mine |= {"state": "running", "title": part.title, "budget": budget}
        report.data["current"] = {"part": name, "until": began + budget, "budget": budget}
        report.save()
        run_one(Context(report, name, began + budget, orders.rehearse, workers), part.place, orders)
        mine["seconds"] = time.time() - began
        report.data["current"] = None
        report.save()
        cut = f"; {len(mine['skipped'])} items were skipped" if mine["skipped"] else ""
        why = f": {mine['error'][:300]}" if mine.get("error") else ""
        say(f"{name:3s} {mine['state']} in {mine['seconds']:.1f} of {budget:.0f} s: {part.title}{cut}{why}")
    sys.stdout.flush()
    os._exit(0)


def run_one(ctx: Context, place: str, orders: Orders) -> None:
    """Run one part and record its state."""
    mine = ctx.mine
    try:
        planted(orders.faults.get(ctx.name, ""))
        module, function = place.split(":")
        loaded = importlib.import_module(f"tests.gpu.{module}")
        if ctx.name in PARTS:
            need_gpu(orders.rehearse)
            mine |= ctx.chip
        getattr(loaded, function)(ctx)
        wrong = [label for label, check in mine["checks"].items() if not check["ok"]]
        mine["state"] = "failed" if wrong else "ok"
        if wrong:
            mine["error"] = f"{len(wrong)} of {len(mine['checks'])} checks failed: {', '.join(wrong)}"[:1500]
        elif mine["skipped"] and not mine["checks"] and not mine["rows"]:
            mine |= {"state": "skipped", "error": f"no time was left for {', '.join(mine['skipped'])}"[:1500]}
    except SkippedPart as why:
        mine |= {"state": "skipped", "error": str(why)}
    except Exception as error:
        mine |= {"state": "failed", "error": named(error, 800), "traceback": traceback.format_exc()[-6000:]}


def need_gpu(rehearse: bool) -> None:
    jax: Any = importlib.import_module("jax")
    devices = jax.devices()
    if devices[0].platform != "gpu" and not rehearse:
        raise RuntimeError(f"JAX has no GPU, only {devices}; install jax[cuda13], or use --rehearse")


def planted(fault: str) -> None:
    """Fail in the chosen way."""
    if fault == "raise":
        raise RuntimeError("planted by --fault")
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(3600)


def end_with_parent() -> None:
    """Let Linux kill this process when the process that started it ends, whatever the reason."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
