"""Part d3: PyTorch, eager and compiled, in a separate process (`torch_worker.py`)."""

import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.gpu.context import Context, SkippedPart
from tests.gpu.measuring import speed_ups
from tests.gpu.report import say

WORKER = Path(__file__).with_name("torch_worker.py")


def torch_rates(ctx: Context) -> None:
    if importlib.util.find_spec("torch") is None:
        raise SkippedPart("PyTorch is not installed")
    command = [sys.executable, str(WORKER)] + ["tiny"] * ctx.tiny
    with (ctx.report.path.parent / "torch.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    stop = threading.Timer(max(1.0, ctx.left()), process.kill)
    stop.start()
    best: dict[str, Any] = {}
    assert process.stdout is not None
    try:
        for line in process.stdout:
            take(ctx, line, best)
        status = process.wait()
    finally:
        stop.cancel()
        process.kill()
    if status:
        ctx.skip(f"the rest of PyTorch: its process ended with status {status}")
    if not best:
        raise RuntimeError("PyTorch returned no result; see torch.log in the folder of the results")
    ctx.note("best", speed_ups(ctx, best))
    for name, found in best.items():
        say(f"   n = {name}: {found['rate']:.3g} draws/s ({found['how']})")


def take(ctx: Context, line: str, best: dict[str, Any]) -> None:
    """Record one line of the process, and keep the best rates."""
    try:
        found = json.loads(line)
    except ValueError:  # a message of PyTorch
        return
    if "about" in found:
        ctx.note("about", found["about"])
        return
    ctx.row(f"n = {found.get('n')}, {found['label']}", **found)
    if "rate" not in found:
        say(f"   PyTorch, {found['label']}: {found['error'][:150]}")
        return
    name = f"{found['n']} {'compiled' if 'compiled' in found['label'] else 'eager'}"
    if found["rate"] > best.get(name, {}).get("rate", 0):
        best[name] = {"rate": found["rate"], "how": found["label"]}
        ctx.note("best", best)
