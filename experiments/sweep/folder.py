"""The folder of a sweep: its plan, and a file for each finished chunk, so that it may be killed at any moment.

`plan.json` says what is swept, how it is cut up, and how many replicates were asked for, one after another. A chunk is some
cells of one shape over some replicates: `chunks/SHAPE-CELL-START-STOP.chunk` is the SHA-256 of its name, the settings and
the rest of the file, a line break, and the moments as an .npy array. Files are written beside their places, synced and
renamed: each is there whole or not at all, and one that was damaged later is not believed.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import UsageError
from experiments.common.record import write

PLAN = "plan.json"
# What does not decide the numbers, or may differ from one part of a run to the next.
FREE = {"out", "config", "readme", "resume", "replicates", "coordinator", "processes", "process", "cluster", "wait", "devices",
        "platform"}  # fmt: skip


class Chunk(NamedTuple):
    """Cells `first`, ... of a shape, over the replicates `start` to before `stop`."""

    shape: int
    first: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.first}-{self.start}-{self.stop}.chunk"


class SweepPlan(NamedTuple):
    """What a sweep does, and how it is cut up."""

    config: dict[str, Any]
    replicates: list[int]
    """How many were asked for: at the beginning, and each time that more were."""
    extents: list[list[int]]
    """Of each shape: `rgrad.sweeps.cells.Extent`."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        write(folder, {PLAN: (json.dumps(self._asdict(), indent=2) + "\n").encode()})


def config_of(settings: Any) -> dict[str, Any]:
    """The settings that decide the numbers."""
    return settings.model_dump(mode="json", exclude=FREE)


def stored(folder: Path) -> dict[str, Any]:
    """The settings that a sweep in that folder was begun with.

    Raises:
        UsageError: there is none.
    """
    plan = read_plan(folder)
    return plan.config | {"replicates": plan.replicates[-1]}


def read_plan(folder: Path) -> SweepPlan:
    try:
        return SweepPlan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"--resume {folder}: there is no sweep in it; give the folder of the results of one") from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"--resume {folder}: its {PLAN} cannot be read ({error}); begin again in another folder"
        ) from None


def extended(plan: SweepPlan, settings: Any) -> SweepPlan:
    """The plan to go on with, of `settings.replicates`.

    Raises:
        UsageError: other settings, or fewer replicates.
    """
    now, last = config_of(settings), plan.replicates[-1]
    other = [
        f"{key} ({json.dumps(plan.config.get(key))}, now {json.dumps(now[key])})"
        for key in now
        if plan.config.get(key) != now[key]
    ]
    if other:
        raise UsageError(
            f"--resume {settings.resume}: it was begun with other settings: {', '.join(other)}; leave these out, or begin "
            "another sweep"
        )
    if settings.replicates < last:
        raise UsageError(
            f"--replicates {settings.replicates}: --resume {settings.resume} has {last} already; give that or more"
        )
    return plan if settings.replicates == last else plan._replace(replicates=[*plan.replicates, settings.replicates])


@contextlib.contextmanager
def locked(folder: Path, process: int) -> Iterator[None]:
    """The folder is this process's own until it ends, by whatever cause.

    Raises:
        UsageError: another one has it.
    """
    import fcntl  # here: the other experiments run where there is none

    path = folder / f".lock-{process}"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{folder}: another process is at work on this sweep; wait for it, or stop it first"
            ) from None
        yield  # the file stays: were it taken away, one that waits for it and one that comes later could both have it


def write_chunk(folder: Path, plan: SweepPlan, chunk: Chunk, numbers: np.ndarray[Any, Any]) -> None:
    """Raises UsageError where the disk is full; what was written before is kept."""
    buffer = io.BytesIO()
    np.save(buffer, numbers)
    payload = buffer.getvalue()
    write(folder / "chunks", {chunk.name: _seal(plan, chunk, payload) + b"\n" + payload})


def read_chunk(folder: Path, plan: SweepPlan, chunk: Chunk) -> np.ndarray[Any, Any] | None:
    """The moments of the chunk; None where it is not there. One that is damaged is taken away, and that is said."""
    path = folder / "chunks" / chunk.name
    try:
        seal, _, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if seal == _seal(plan, chunk, payload):
        return np.load(io.BytesIO(payload))
    print(f"damaged, and made again: {path}", flush=True)
    path.unlink()
    return None


def _seal(plan: SweepPlan, chunk: Chunk, payload: bytes) -> bytes:
    return hashlib.sha256(f"{plan.digest} {chunk.name}\n".encode() + payload).hexdigest().encode()
