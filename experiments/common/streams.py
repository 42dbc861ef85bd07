"""Standard output and error that never end a run: its results are worth more than its report."""

import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO


def printable(text: str) -> str:
    """The text in one line. It may quote a name with a line break or an escape sequence."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Lenient(io.TextIOBase):
    """A text stream that drops what cannot be written: the reader is gone (`| head`), or the disk is full."""

    def __init__(self, stream: TextIO | None):
        self.stream: TextIO = Path(os.devnull).open("w") if stream is None else stream  # noqa: SIM115
        self.error: OSError | None = None
        if isinstance(self.stream, io.TextIOWrapper):
            self.stream.reconfigure(errors="backslashreplace")  # e.g. the name of a folder on an ASCII terminal

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Keeps the first error. From now on the stream discards all text, even when Python flushes it at the end."""
        self.error = self.error or error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_streams_lenient() -> None:
    open_standard_streams()
    sys.stdout, sys.stderr = Lenient(sys.stdout), Lenient(sys.stderr)


def open_standard_streams() -> None:
    """Opens /dev/null for each standard stream that is closed. Otherwise a file of results may get its number."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def lost_output() -> str | None:
    """Why standard output was lost. None if it was not, or if its reader did not want more of it (`| head`)."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    return None if error is None or isinstance(error, BrokenPipeError) else str(error.strerror)
