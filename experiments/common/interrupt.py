"""Ends a run on Ctrl-C or SIGTERM, with one accurate line about what was kept.

A separate thread receives the signals, because an exception in the main thread could be raised anywhere. NumPy and jaxlib print
it or crash if it is raised while they are imported. Python drops it in a callback of the garbage collector. During a long call
of XLA it is not raised at all. So the thread cleans up, prints the line, and ends the process. It waits until files that belong
together are written (`held`). The second signal ends the process at once.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from experiments.common.streams import open_standard_streams, printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_lock = threading.RLock()
_cleanups: list[Callable[[], object]] = []
_kept = ""
_watching = False


def watch_interrupts() -> None:
    """From now on, SIGINT and SIGTERM end the process as described above."""
    global _watching
    if _watching:
        return
    _watching = True
    open_standard_streams()  # the socket must not take the number of a closed stream, to which libraries write
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    for signum in SIGNALS:
        signal.signal(signum, lambda signum, frame: None)  # Python writes to the socket before it calls this
    threading.Thread(target=_watch, args=[receiver], daemon=True).start()


def _watch(receiver: socket.socket) -> None:
    ending = False
    while True:
        (signum,) = receiver.recv(1)
        if signum in SIGNALS:
            if ending:
                os._exit(128 + signum)
            ending = True
            threading.Thread(target=_end, args=[signum], daemon=True).start()


def _end(signum: int) -> None:
    with held():
        for cleanup in reversed(_cleanups):
            with contextlib.suppress(Exception):
                cleanup()
        with contextlib.suppress(OSError):  # stderr is closed, or its reader is gone
            os.write(2, f"interrupted; {printable(kept())}\n".encode(errors="backslashreplace"))
        os._exit(128 + signum)


def ignore_interrupts() -> None:
    """The run has ended: signals no longer have any effect. If one came before, this function does not return."""
    _lock.acquire()


def default_interrupts() -> None:
    """Nothing is left to do but to end the process: a signal ends it at once."""
    if _watching:
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delays signals until the end of the context. For files that belong together; contexts may be nested."""
    with _lock:
        yield


@contextlib.contextmanager
def cleaned(cleanup: Callable[[], object]) -> Iterator[None]:
    """Calls `cleanup` at the end of the context, also if a signal ends the process."""
    with held():
        _cleanups.append(cleanup)
    try:
        yield
    finally:
        with held():
            _cleanups.remove(cleanup)
            cleanup()


def keep(what: str) -> None:
    """Sets what the message of an interrupt says. Call it inside `held`, together with the write."""
    global _kept
    _kept = what


def kept() -> str:
    """What an interrupted run has kept, as a sentence."""
    return _kept or "nothing was written"
