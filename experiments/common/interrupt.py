"""Remembers Ctrl-C. Python drops a KeyboardInterrupt that is raised in a garbage-collection callback of JAX."""

import signal
from typing import Any

_interrupted = False


def _remember(signum: int, frame: Any) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def remember_interrupts() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt as usual, and is also remembered."""
    signal.signal(signal.SIGINT, _remember)


def stop_if_interrupted() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed and the exception was lost."""
    if _interrupted:
        raise KeyboardInterrupt
