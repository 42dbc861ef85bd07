"""What every experiment does around its question: settings, errors, Ctrl-C, progress, tables."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel

from experiments.errors import UsageError
from experiments.settings import parse

S = TypeVar("S", bound=BaseModel)
Advance = Callable[[float], None]


def main(model: type[S], run: Callable[[S], int | None], argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status: that of `run`, or 0; 2 and one line for bad input; 130 when interrupted."""
    prog = f"python -m {run.__module__ if run.__module__ != '__main__' else sys.modules['__main__'].__spec__.name}"  # type: ignore[union-attr]
    try:
        settings = parse(model, sys.argv[1:] if argv is None else argv, prog)
        return run(settings) or 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:  # an experiment that keeps something says what
        print(f"interrupted; {str(stop) or 'nothing was written'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` closed the pipe: what was asked to be read has been read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("error: out of memory; ask for smaller --sizes, or for fewer estimators at once", file=sys.stderr)
        return 2


_interrupted = False


def _interrupt(signum: int, frame: Any) -> None:
    """Python's own answer to Ctrl-C, but remembered: raised within a callback of JAX's garbage collection it is swallowed."""
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def stop_if_interrupted() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed and the exception was lost."""
    if _interrupted:
        raise KeyboardInterrupt


def command(model: type[S], run: Callable[[S], int | None]) -> NoReturn:
    """`main` on the command line, and then the end of the process with its status."""
    signal.signal(signal.SIGINT, _interrupt)
    status = main(model, run)
    if status == 130:
        # At once: a computation that goes on in a thread of its own while the interpreter is torn down may crash it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


@contextlib.contextmanager
def progress(total: float, what: str) -> Iterator[Advance]:
    """A progress bar on stderr where that is a terminal; `advance(work done since)` moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: float) -> None:
            stop_if_interrupted()
            bar.advance(task, done)

        yield advance


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE)
    for i, name in enumerate(header):
        table.add_column(escape(name), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    # As wide as it needs to be: a terminal that is narrower wraps the lines, and no number is cut.
    Console(width=250).print(table)


def start(float_width: int) -> Any:
    """jax, imported when there is work to do, with floats of that width."""
    import jax

    jax.config.update("jax_enable_x64", float_width == 64)
    return jax


def number(x: float | None, digits: int = 4) -> str:
    return "-" if x is None else f"{x:.{digits}g}"
