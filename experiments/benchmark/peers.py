"""The section `peers` of `experiments.benchmark`: one gradient by other libraries, each in a process of its own.

Some of them need versions of JAX or NumPy that exclude one another. So each process may have another interpreter.
"""

import json
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from experiments.benchmark.peer_script import LIBRARIES, SAMPLES
from experiments.benchmark.rivals import OURS, Missing, WrongResult
from experiments.benchmark.study import Row, compared, in_turn
from experiments.common.interrupt import cleaned
from experiments.common.progress import Advance

SCRIPT = Path(__file__).with_name("peer_script.py")
CALLS = 50  # gradients in one turn
TRUTH = {"normal": (4.0, 87 / 1_000), "bits": (0.0005, None)}
"""The mean of a gradient, and its variance if every library has it: baselines of their own change that of `bits`."""


class Peer:
    """A process that makes gradients with one library, `CALLS` for each turn.

    Raises:
        Missing: no interpreter has the library, or it cannot do the job.
        WrongResult: the gradients have the wrong mean or variance.
    """

    def __init__(self, library: str, job: str, interpreters: tuple[str, ...]):
        self.name, self.job = library, job
        for interpreter in interpreters:
            self._stack = ExitStack()
            self._process = subprocess.Popen(
                [interpreter, str(SCRIPT), library, job, str(CALLS)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
            self._stack.enter_context(cleaned(self._end))
            try:
                first = self._said()
            except RuntimeError as error:
                first = {"missing": str(error)}
            if "missing" not in first:
                check(library, job, first["mean"], first["variance"])
                return
            self._stack.close()
        raise Missing(first["missing"])

    def rate(self, turn: int) -> float:
        """Gradients per second in one turn."""
        assert self._process.stdin is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return float(self._said()["rate"])

    def _said(self) -> dict[str, Any]:
        process = self._process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _, err = process.communicate()
            raise RuntimeError(err.strip().splitlines()[-1] if err.strip() else "the process ended")
        return dict(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._process.kill()
        with suppress(ValueError, BrokenPipeError):  # it has been read to its end
            self._process.communicate()


def check(library: str, job: str, mean: float, variance: float) -> None:
    """Checks the mean within 8 standard errors, and the variance within a factor of 3, from `CALLS` gradients.

    Raises:
        WrongResult: one is off.
    """
    truth, per_call = TRUTH[job]
    off = abs(mean - truth) > 8 * (variance / CALLS) ** 0.5
    if off or (per_call is not None and not 1 / 3 < variance / per_call < 3):
        raise WrongResult(f"{library}, {job}: mean {mean:.5g} and variance {variance:.3g} per call, expected {truth:g}"
                          + (f" and {per_call:g}" if per_call else ""))  # fmt: skip


def peers_section(settings: Any, left_out: dict[str, str], advance: Advance) -> list[Row]:
    """Gradients per second of each job, for every library that is there."""
    rows: list[Row] = []
    interpreters = (sys.executable, *settings.peer_python)
    for job, samples in SAMPLES.items():
        with ExitStack() as stack:
            peers = {}
            for library in LIBRARIES:
                try:
                    peers[library] = stack.enter_context(Peer(library, job, interpreters))
                except Missing as why:
                    left_out[f"{library}, {job}"] = str(why)
            jobs = {name: partial(Peer.rate, peer) for name, peer in peers.items()}
            found = compared("peers", samples, in_turn(jobs, settings.rounds, advance), 1)
        for r in found[bool(rows) :]:
            rows.append({**r, "contender": OURS if r["contender"] == OURS else f"{job}: {r['contender']}"})
    return rows
