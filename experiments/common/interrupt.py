"""Ends a run on Ctrl-C or SIGTERM. Python drops an exception that is raised in a garbage-collection callback of JAX."""

import os
import signal
from typing import Any

_received: int | None = None


def _remember(signum: int, frame: Any) -> None:
    global _received
    if _received is not None:
        os._exit(128 + signum)  # the second signal ends the process at once
    _received = signum
    raise KeyboardInterrupt


def remember_interrupts() -> None:
    """From now on, SIGINT and SIGTERM raise KeyboardInterrupt, and are also remembered."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _remember)


def stop_if_interrupted() -> None:
    """Raises KeyboardInterrupt if a signal came and the exception was lost."""
    if _received is not None:
        raise KeyboardInterrupt


def interrupted_status() -> int:
    """The exit status of an interrupted run: 130, or 143 after SIGTERM."""
    return 128 + (_received or signal.SIGINT)
