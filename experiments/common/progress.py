"""A progress bar on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.common.interrupt import cleaned

Advance = Callable[[float], None]
"""Advances the bar by the work done since the last call."""


@contextlib.contextmanager
def progress(total: float, what: str) -> Iterator[Advance]:
    """A progress bar on stderr, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, cleaned(bar.stop):
        task = bar.add_task(what, total=total)

        def advance(done: float) -> None:
            bar.advance(task, done)

        yield advance
