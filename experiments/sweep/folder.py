"""The folder of a sweep: its plan, and a file for each finished chunk, so that the sweep can be killed at any time.

`plan.json` holds the settings, everything else that determines the numbers (`origin.py`), the division into chunks, the numbers
of replicates that were requested in turn, and a checksum of all this. A chunk is a range of cells of one shape over a range of
replicates. `chunks/SHAPE-CELL-START-STOP.chunk` holds the SHA-256 of its name, the settings, their origin and the rest of the
file, then a line break, then the moments as an .npy array. Files are written under temporary names, synced and renamed, so each
is complete or absent. The checksums detect later damage. Nothing is deleted: a damaged chunk is renamed.
"""

import contextlib
import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import UsageError
from experiments.common.record import locked, write
from experiments.sweep.origin import differences, origin_of

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
    origin: dict[str, str]
    """See `origin_of`."""
    replicates: list[int]
    """The number requested at the start, and at each extension."""
    extents: list[list[int]]
    """`rgrad.sweeps.cells.Extent` of each shape."""

    @property
    def digest(self) -> str:
        """Of everything that determines the numbers."""
        return _sha([self.config, self.origin])

    def write(self, folder: Path) -> None:
        sealed = self._asdict() | {"seal": _sha(self)}
        write(folder, {PLAN: (json.dumps(sealed, indent=2) + "\n").encode()})


def _sha(x: Any) -> str:
    return hashlib.sha256(json.dumps(x, sort_keys=True).encode()).hexdigest()


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
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        seal = found.pop("seal")
        plan = SweepPlan(**found)
        if not (isinstance(plan.config, dict) and isinstance(plan.origin, dict) and plan.replicates and plan.extents):
            raise ValueError("it lacks the settings, the replicates or the extents")
    except FileNotFoundError:
        raise UsageError(
            f"--resume {folder}: this folder has no sweep; give the folder with the results of a sweep"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"--resume {folder}: cannot read {PLAN} ({what}); start again in another folder") from None
    if seal != _sha(plan):
        raise UsageError(
            f"--resume {folder}: {PLAN} has been changed or is damaged (its checksum differs); restore it, or start again in "
            "another folder. The chunks are kept"
        )
    return plan


def extended(plan: SweepPlan, settings: Any) -> SweepPlan:
    """The plan to continue with, for `settings.replicates`.

    Raises:
        UsageError: the settings differ, or there are fewer replicates.
    """
    now, last, own = config_of(settings), plan.replicates[-1], origin_of(settings)
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
    if changed := differences(plan.origin, own):
        raise UsageError(
            f"--resume {settings.resume}: it was started with other code or versions: {', '.join(changed)}; go back to "
            "these, or start another sweep"
        )
    if settings.replicates < last:
        raise UsageError(
            f"--replicates {settings.replicates}: --resume {settings.resume} already has {last}; give at least that many"
        )
    return plan if settings.replicates == last else plan._replace(replicates=[*plan.replicates, settings.replicates])


@contextlib.contextmanager
def share_locked(folder: Path, process: int) -> Iterator[None]:
    """Locks the share of a process within the context. The lock shows the others that it is still running.

    Raises:
        UsageError: another process holds the lock.
    """
    path = folder / f".lock-{process}"
    try:
        path.open("a").close()  # never deleted: otherwise a waiting process and a later one could both get the lock
    except OSError as error:  # e.g. a folder of this name
        raise UsageError(f"{folder}: cannot open {path.name}: {error.strerror}; remove it") from None
    with locked(path, f"{folder}: another process is working on this sweep"):
        yield


def is_working(folder: Path, process: int) -> bool:
    """Whether a process holds the lock of its share."""
    try:
        with locked(folder / f".lock-{process}", ""):
            return False
    except UsageError:
        return True


def write_chunk(folder: Path, plan: SweepPlan, chunk: Chunk, numbers: np.ndarray[Any, Any]) -> None:
    """Writes a chunk. Raises UsageError if the disk is full. Earlier chunks stay."""
    buffer = io.BytesIO()
    np.save(buffer, numbers)
    payload = buffer.getvalue()
    write(folder / "chunks", {chunk.name: _seal(plan, chunk, payload) + b"\n" + payload})


def read_chunk(folder: Path, plan: SweepPlan, chunk: Chunk) -> np.ndarray[Any, Any] | None:
    """The moments of the chunk, or None if it does not exist. Renames a damaged chunk and prints a message."""
    path = folder / "chunks" / chunk.name
    try:
        seal, _, payload = path.read_bytes().partition(b"\n")
        if seal == _seal(plan, chunk, payload):
            return np.load(io.BytesIO(payload), allow_pickle=False)
    except FileNotFoundError:
        return None
    except OSError:  # e.g. a folder of this name
        pass
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged")
    path.rename(aside)
    print(f"damaged chunk, will be computed again: {path} (kept as {aside.name})", flush=True)
    return None


def _seal(plan: SweepPlan, chunk: Chunk, payload: bytes) -> bytes:
    return hashlib.sha256(f"{plan.digest} {chunk.name}\n".encode() + payload).hexdigest().encode()
