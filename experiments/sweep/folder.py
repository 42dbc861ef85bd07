"""The folder of a sweep: its plan, and a file for each finished chunk, so that the sweep can be killed at any time.

`plan.json` holds the settings, the division into chunks, and the numbers of replicates that were requested in turn. A chunk
is a range of cells of one shape over a range of replicates. `chunks/SHAPE-CELL-START-STOP.chunk` holds the SHA-256 of its
name, the settings and the rest of the file, then a line break, then the moments as an .npy array. Files are written under
temporary names, synced and renamed, so each is complete or absent. The checksum detects later damage.
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
# Settings that do not affect the numbers, or may differ between the parts of a run.
FREE = {"out", "config", "readme", "resume", "replicates", "coordinator", "processes", "process", "cluster", "wait", "devices",
        "platform"}  # fmt: skip


class Chunk(NamedTuple):
    """Cells of a shape from `first`, over the replicates in `range(start, stop)`."""

    shape: int
    first: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.first}-{self.start}-{self.stop}.chunk"


class SweepPlan(NamedTuple):
    """The settings of a sweep, and its division into chunks."""

    config: dict[str, Any]
    replicates: list[int]
    """The number requested at the start, and at each extension."""
    extents: list[list[int]]
    """`rgrad.sweeps.cells.Extent` of each shape."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        write(folder, {PLAN: (json.dumps(self._asdict(), indent=2) + "\n").encode()})


def config_of(settings: Any) -> dict[str, Any]:
    """The settings that affect the numbers."""
    return settings.model_dump(mode="json", exclude=FREE)


def stored(folder: Path) -> dict[str, Any]:
    """The settings of the sweep in this folder.

    Raises:
        UsageError: the folder has no sweep.
    """
    plan = read_plan(folder)
    return plan.config | {"replicates": plan.replicates[-1]}


def read_plan(folder: Path) -> SweepPlan:
    try:
        return SweepPlan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(
            f"--resume {folder}: this folder has no sweep; give the folder with the results of a sweep"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"--resume {folder}: cannot read {PLAN} ({error}); start again in another folder") from None


def extended(plan: SweepPlan, settings: Any) -> SweepPlan:
    """The plan to continue with, for `settings.replicates`.

    Raises:
        UsageError: the settings differ, or there are fewer replicates.
    """
    now, last = config_of(settings), plan.replicates[-1]
    other = [
        f"{key} ({json.dumps(plan.config.get(key))}, now {json.dumps(now[key])})"
        for key in now
        if plan.config.get(key) != now[key]
    ]
    if other:
        raise UsageError(
            f"--resume {settings.resume}: it was started with other settings: {', '.join(other)}; leave these out, or start "
            "another sweep"
        )
    if settings.replicates < last:
        raise UsageError(
            f"--replicates {settings.replicates}: --resume {settings.resume} already has {last}; give at least that many"
        )
    return plan if settings.replicates == last else plan._replace(replicates=[*plan.replicates, settings.replicates])


@contextlib.contextmanager
def locked(folder: Path, process: int) -> Iterator[None]:
    """Locks the folder within the context. The lock also ends with the process, for whatever reason.

    Raises:
        UsageError: another process holds the lock.
    """
    import fcntl  # imported here, because the other experiments also run on systems without it

    path = folder / f".lock-{process}"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{folder}: another process is working on this sweep; wait for it, or stop it first"
            ) from None
        yield  # the file stays: without it, a waiting process and a later one could both get the lock


def write_chunk(folder: Path, plan: SweepPlan, chunk: Chunk, numbers: np.ndarray[Any, Any]) -> None:
    """Writes a chunk. Raises UsageError if the disk is full. Earlier chunks stay."""
    buffer = io.BytesIO()
    np.save(buffer, numbers)
    payload = buffer.getvalue()
    write(folder / "chunks", {chunk.name: _seal(plan, chunk, payload) + b"\n" + payload})


def read_chunk(folder: Path, plan: SweepPlan, chunk: Chunk) -> np.ndarray[Any, Any] | None:
    """The moments of the chunk, or None if it does not exist. Deletes a damaged chunk and prints a message."""
    path = folder / "chunks" / chunk.name
    try:
        seal, _, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if seal == _seal(plan, chunk, payload):
        return np.load(io.BytesIO(payload))
    print(f"damaged chunk, will be computed again: {path}", flush=True)
    path.unlink()
    return None


def _seal(plan: SweepPlan, chunk: Chunk, payload: bytes) -> bytes:
    return hashlib.sha256(f"{plan.digest} {chunk.name}\n".encode() + payload).hexdigest().encode()
