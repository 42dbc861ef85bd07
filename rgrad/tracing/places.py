"""The line of the user's code from which an operation of a jaxpr comes."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rgrad

LIBRARIES = (*{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}, str(Path(rgrad.__file__).parent))


class Place(NamedTuple):
    """A line of code. The file is empty if it is not known."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})" if self.file else "unknown place"


NOWHERE = Place("", 0, "")


def place_of(eqns: Sequence[Any]) -> Place:
    """The innermost line of the user's code that made an operation, or of a library if there is none.

    A library function that is compiled separately, such as `jax.random.bernoulli`, is traced only once. If it is called
    again, its operations still have the frames of the first call. So only their frames within that function count. The
    frames above it are taken from the operation that calls it.

    Args:
        eqns: the operations that contain it, the outermost first, and then the operation itself.
    """
    found = []
    for i in range(len(eqns) - 1, -1, -1):
        frames = _frames(eqns[i])
        body = eqns[i - 1].params.get("name") if i else None
        if body is not None:
            ends = [j for j, frame in enumerate(frames) if frame.function == body]
            frames = frames[: ends[0] + 1] if ends else []
        found += frames
        if mine := next((frame for frame in frames if not _in_library(frame)), None):
            return mine
    return next((frame for frame in found if "/jax/" not in frame.file), NOWHERE)


def _in_library(frame: Place) -> bool:
    return frame.file.startswith("<frozen") or frame.file.startswith(LIBRARIES)


def _frames(eqn: Any) -> list[Place]:
    """The stack of an operation, the innermost frame first. Empty if JAX did not keep it."""
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    frames = getattr(traceback, "frames", None) or ()
    return [Place(f.file_name, f.line_num, f.function_name.split(".")[-1]) for f in frames]
