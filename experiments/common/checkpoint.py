"""Checkpoints that are complete or absent, with a checksum against damage.

`DIR/checkpoints/STEP.checkpoint` holds the SHA-256 of the rest of the file, a line break, and an .npz with the arrays and
their description. It is written under a temporary name, synced and renamed. Then the previous one is deleted.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.errors import UsageError
from experiments.common.record import Row, remove_leftovers, write

ABOUT = "about"


class Saved(NamedTuple):
    """A training run at a step."""

    step: int
    arrays: list[np.ndarray]
    rows: list[Row]


def write_checkpoint(folder: Path, saved: Saved, settings: Any, before: int | None) -> None:
    """Writes `saved` to disk, then deletes all other checkpoints except that of step `before`.

    Raises:
        UsageError: the disk is full, or the folder is gone. The earlier checkpoints stay.
    """
    about = json.dumps({"config": _config(settings), "step": saved.step, "rows": saved.rows})
    arrays = {str(i): array for i, array in enumerate(saved.arrays)}
    payload = npz(arrays | {ABOUT: np.frombuffer(about.encode(), np.uint8)})
    place = folder / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    remove_leftovers(place)
    write(place, {f"{saved.step}.checkpoint": hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload})
    for step, path in _found(folder):
        if step not in (saved.step, before):
            path.unlink()


def latest(folder: Path, settings: Any, grows: str = "steps") -> Saved | None:
    """The last intact checkpoint in `folder`. None if all are damaged. Prints which ones are damaged.

    Args:
        grows: the setting that may be larger than before, because it is the last step. "" if there is none.

    Raises:
        UsageError: there is no checkpoint, or its settings differ.
    """
    found = _found(folder)
    if not found:
        raise UsageError(f"--resume {folder}: this folder has no checkpoint; give the folder with the results of a run")
    for step, path in found:
        try:
            saved, config = _read(path)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            print(f"the checkpoint of step {step:,} is damaged ({error}) and ignored")
            continue
        _check(folder, saved.step, config, settings, grows)
        print(f"continuing from step {saved.step:,}")
        return saved
    print("no checkpoint is intact: starting from step 0")
    return None


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _read(path: Path) -> tuple[Saved, dict[str, Any]]:
    digest, _, payload = path.read_bytes().partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise ValueError("wrong checksum")
    with np.load(io.BytesIO(payload), allow_pickle=False) as file:
        about = json.loads(file[ABOUT].tobytes())
        arrays = [file[str(i)] for i in range(len(file.files) - 1)]
    return Saved(about["step"], arrays, about["rows"]), about["config"]


def _check(folder: Path, step: int, config: dict[str, Any], settings: Any, grows: str) -> None:
    now, config = ({k: v for k, v in of.items() if k != grows} for of in (_config(settings), config))
    other = [f"{k} = {config.get(k)} (now {now.get(k)})" for k in (now | config) if now.get(k) != config.get(k)]
    only = f", only --{grows} may be larger" if grows else ""
    if other:
        raise UsageError(f"--resume {folder}: it was made with {', '.join(other)}; use the same settings{only}")
    if grows and getattr(settings, grows) < step:
        raise UsageError(
            f"--{grows} {getattr(settings, grows)}: --resume {folder} is already at step {step}; give at least that many"
        )


def _config(settings: Any) -> dict[str, Any]:
    """The settings that must not change when a run continues."""
    return settings.model_dump(mode="json", exclude={"out", "config", "readme", "platform", "resume"})


def _found(folder: Path) -> list[tuple[int, Path]]:
    paths = (folder / "checkpoints").glob("*.checkpoint")
    return sorted(((int(path.stem), path) for path in paths if path.stem.isdecimal()), reverse=True)
