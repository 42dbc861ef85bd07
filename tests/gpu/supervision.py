"""The process that supervises: it starts the worker, and another one if that crashes or hangs; then the summary."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.gpu.report import DONE, NAME, Report, say
from tests.gpu.summary import summary
from tests.gpu.worker import LEAST, Orders

SCRIPT = Path(__file__).resolve().parent.parent.parent / ".ci" / "gpu"
GRACE = 25.0  # a part may take this many seconds more than its time, but not more than twice its time
LAST_GRACE = 10.0  # the same after the deadline
MOST_STARTS = 8


def supervise(orders: Orders, minutes: float) -> int:
    """Run all parts and print the summary. Return 1 if a part failed."""
    out = Path(orders.out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / NAME).exists():
        (out / NAME).replace(out / "gpu.previous.json")
    report = Report(out)
    report.data |= {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "minutes": minutes,
        "rehearsal": orders.rehearse,
        "order": orders.parts,
    }
    for name in orders.parts:
        report.part(name)
    report.save()
    signal.signal(signal.SIGTERM, stop)
    try:
        run_workers(orders)
    except KeyboardInterrupt as why:
        say(f"stopped: {why}")
    report = Report(out)
    report.clean()
    for name in orders.parts:
        part = report.part(name)
        if part["state"] == "running":
            part |= {"state": "failed", "error": "it was stopped before it was done"}
        elif part["state"] == "pending":
            part |= {"state": "skipped", "error": "it was not started"}
    report.data["current"] = None
    report.data["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    report.save()
    return summary(report.data)


def stop(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first signal is enough
    raise KeyboardInterrupt(f"signal {signum}")


def run_workers(orders: Orders) -> None:
    """Start workers until no part is left."""
    todo = orders.parts
    for start in range(MOST_STARTS):
        left = run_worker(orders._replace(parts=todo), start)
        if not left or left == todo or time.time() > orders.deadline - LEAST:
            return
        todo = left


def run_worker(orders: Orders, start: int) -> list[str]:
    """Run one worker to its end, record the part in which it ended, and return the parts that are left."""
    out = Path(orders.out)
    log = out / f"stderr{start}.log"
    command = [sys.executable, str(SCRIPT), "--worker", json.dumps(orders._asdict())]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, env=environment(orders.rehearse), stderr=errors, process_group=0)
    try:
        why = watch(process, orders)
    finally:
        end(process)
    why = why or (f"its process ended with status {process.returncode}" if process.returncode else "")
    report = Report(out)
    current = (report.data.get("current") or {}).get("part")
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    if current and report.part(current)["state"] not in DONE:
        report.part(current).update(state="failed", error=why or "its process ended", stderr=tail)
        say(f"{current:3s} failed: {why or 'its process ended'}")
        for line in tail.splitlines()[-6:]:
            say(f"      {line[:200]}")
    elif process.returncode:
        say(f"a process ended with status {process.returncode}: {tail[-1500:]}")
    report.data["current"] = None
    report.save()
    return [name for name in orders.parts if report.part(name)["state"] not in DONE]


def watch(process: Any, orders: Orders) -> str:
    """Wait until the worker ends. Kill it if a part is late, and return why; otherwise return an empty text."""
    while process.poll() is None:
        time.sleep(0.2)
        current = Report(Path(orders.out)).data.get("current") or {}
        late = time.time() - min(current.get("until", orders.deadline), orders.deadline)
        grace = min(GRACE, current.get("budget", GRACE)) if time.time() < orders.deadline else LAST_GRACE
        if late > grace:
            end(process)
            return f"it was not finished {late:.0f} s after its time, so its process was killed"
    return ""


def environment(rehearse: bool) -> dict[str, str]:
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.60")  # the rest is for PyTorch and for experiments.variance
    if rehearse:
        env["JAX_PLATFORMS"] = "cpu"
        env.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")  # most of a rehearsal is compilation
    return env


def end(process: Any) -> None:
    """Kill a process and its children."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.wait()
