"""Checkpoints: whole or not there, and what is damaged is not believed.

`DIR/checkpoints/STEP.checkpoint` is the SHA-256 of the rest of the file, a line break, and an .npz of the arrays and the
words about them. It is written beside its place, synced, and renamed; the one before it is taken away after that.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import UsageError
from experiments.common.record import Row, write

ABOUT = "about"


class Saved(NamedTuple):
    """A training run at a step."""

    step: int
    arrays: list[np.ndarray]
    rows: list[Row]


def write_checkpoint(folder: Path, saved: Saved, settings: Any, before: int | None) -> None:
    """`saved` on disk, for good; then all others are taken away but that of step `before`.

    Raises:
        UsageError: the disk is full, or the folder went away; the earlier checkpoints are left.
    """
    about = json.dumps({"config": _config(settings), "step": saved.step, "rows": saved.rows})
    arrays = {str(i): array for i, array in enumerate(saved.arrays)}
    payload = npz(arrays | {ABOUT: np.frombuffer(about.encode(), np.uint8)})
    place = folder / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    write(place, {f"{saved.step}.checkpoint": hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload})
    for step, path in _found(folder):
        if step not in (saved.step, before):
            path.unlink()


def latest(folder: Path, settings: Any) -> Saved | None:
    """The last checkpoint in `folder` that is whole; None where all are damaged. Says which are.

    Raises:
        UsageError: there is none, or it is of other settings.
    """
    found = _found(folder)
    if not found:
        raise UsageError(f"--resume {folder}: there is no checkpoint in it; give the folder of the results of a run")
    for step, path in found:
        try:
            saved, config = _read(path)
        except (OSError, ValueError) as error:
            print(f"the checkpoint of step {step:,} is damaged ({error}) and left out")
            continue
        _check(folder, saved.step, config, settings)
        print(f"going on from step {saved.step:,}")
        return saved
    print("no checkpoint is whole: starting from the beginning")
    return None


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _read(path: Path) -> tuple[Saved, dict[str, Any]]:
    digest, _, payload = path.read_bytes().partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise ValueError("its checksum is another")
    with np.load(io.BytesIO(payload), allow_pickle=False) as file:
        about = json.loads(file[ABOUT].tobytes())
        arrays = [file[str(i)] for i in range(len(file.files) - 1)]
    return Saved(about["step"], arrays, about["rows"]), about["config"]


def _check(folder: Path, step: int, config: dict[str, Any], settings: Any) -> None:
    now = _config(settings)
    other = [f"{k} = {config.get(k)} (now {now.get(k)})" for k in (now | config) if now.get(k) != config.get(k)]
    if other:
        raise UsageError(
            f"--resume {folder}: it was made with {', '.join(other)}; give the same, only --steps may grow"
        )
    if settings.steps < step:
        raise UsageError(f"--steps {settings.steps}: --resume {folder} is at step {step} already; give that or more")


def _config(settings: Any) -> dict[str, Any]:
    """What has to be the same in a run that goes on."""
    return settings.model_dump(mode="json", exclude={"out", "config", "readme", "resume", "steps"})


def _found(folder: Path) -> list[tuple[int, Path]]:
    paths = (folder / "checkpoints").glob("*.checkpoint")
    return sorted(((int(path.stem), path) for path in paths if path.stem.isdecimal()), reverse=True)
