"""Paths as a user writes them. Used by the command line, and by code that runs without it."""

from pathlib import Path


def user_path(path: str) -> str:
    """The path, with `~` replaced by the home folder. Raises ValueError if the path is empty, or there is no such home."""
    if not path:
        raise ValueError("the path is empty; give one, or leave the flag out")
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home folder; write the path without ~") from None
