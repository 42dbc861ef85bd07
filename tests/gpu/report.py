"""The report of a run: gpu.json, which is replaced atomically after every result."""

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

KIND = "rgrad .ci/gpu"  # how `python -m experiments.benchmark --read` recognises the file
NAME = "gpu.json"
DONE = ("ok", "failed", "skipped")


def plain(x: Any) -> Any:
    """Convert to what JSON can express. A number that is not finite becomes a string."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [plain(value) for value in x]
    if isinstance(x, str | int) or x is None:
        return x
    if isinstance(x, float):
        return x if math.isfinite(x) else str(x)
    if hasattr(x, "tolist"):
        return plain(x.tolist())
    return str(x)


class Report:
    """The contents of gpu.json. Reads the file if it exists."""

    def __init__(self, folder: Path):
        self.path, self.lock = folder / NAME, threading.RLock()
        self.data: dict[str, Any] = {"kind": KIND, "parts": {}, "current": None}
        if self.path.exists():
            self.data = json.loads(self.path.read_text(encoding="utf-8"))

    def save(self) -> None:
        """Write the file under another name, then rename it. A process that is killed leaves the old or the new file."""
        with self.lock:
            text = json.dumps(plain(self.data), indent=1)
            beside = self.path.with_name(f".{NAME}.{os.getpid()}")
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)

    def clean(self) -> None:
        """Remove the unfinished files of processes that were killed."""
        for path in self.path.parent.glob(f".{NAME}.*"):
            path.unlink(missing_ok=True)

    def part(self, name: str) -> dict[str, Any]:
        empty = {"state": "pending", "rows": {}, "checks": {}, "notes": {}, "skipped": []}
        return self.data["parts"].setdefault(name, empty)


def say(text: str) -> None:
    print(text, flush=True)


def short(x: Any, digits: int = 3) -> str:
    return f"{x:.{digits}g}" if isinstance(x, int | float) else str(x)


def named(error: BaseException, most: int = 400) -> str:
    """The type and the start of the message."""
    return f"{type(error).__name__}: {str(error)[:most]}"
