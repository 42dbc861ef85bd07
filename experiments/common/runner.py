"""Runs an experiment from the command line: settings, errors, exit status.

This module does not import jax at the top, so `--help` responds immediately.
"""

import importlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from pydantic import BaseModel

from experiments.common.errors import UsageError
from experiments.common.interrupt import default_interrupts, held, ignore_interrupts, keep, kept, watch_interrupts
from experiments.common.platform import imported, use_platform
from experiments.common.settings import command_line, parse
from experiments.common.streams import lost_output, make_streams_lenient, printable

S = TypeVar("S", bound=BaseModel)
Run = Callable[[S], int | None]


def run_of(package: str, model: type[S], before: Callable[[S], None] | None = None, *, joins: bool = False) -> Run[S]:
    """The function `run` of `package.experiment`. The module is imported at the first call.

    Args:
        model: the class of its settings.
        before: called with the settings before jax is imported.
        joins: the experiment joins other processes, which must happen before jax starts. So it selects the platform
            itself.
    """

    def run(settings: S) -> int | None:
        if before is not None:
            before(settings)
        jax = imported("jax", "JAX_")  # slow, and not needed for `--help`
        imported("matplotlib", "MPLBACKEND")
        if (width := getattr(settings, "float_width", None)) is not None:
            jax.config.update("jax_enable_x64", width == 64)
            if not joins:
                use_platform(jax, getattr(settings, "platform", "auto"))
        found: int | None = importlib.import_module(f"{package}.experiment").run(settings)
        return found

    run.__module__ = package
    return run


def main(model: type[S], run: Run[S], argv: Sequence[str] | None = None) -> int:
    """Parses the arguments, runs, and returns the exit status: that of `run`; 2 for bad input, 130 after KeyboardInterrupt."""
    keep("")
    try:
        settings = parse(model, sys.argv[1:] if argv is None else argv, f"python -m {run.__module__}")
        return _without_exit(run, settings) or 0
    except (Exception, KeyboardInterrupt) as error:
        with held():  # never returns if a signal ends the process, because that may be the cause of the error
            if isinstance(error, KeyboardInterrupt):  # `main` was called by other code, which did not watch for signals
                print(f"interrupted; {printable(kept())}", file=sys.stderr)
                return 130
            if isinstance(error, UsageError):
                print(f"error: {printable(str(error))}", file=sys.stderr)
                return 2
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                print("error: out of memory; use a smaller --num-samples or fewer --estimators", file=sys.stderr)
                return 2
        raise


def _without_exit(run: Run[S], settings: S) -> int | None:
    """`run(settings)`. A user's code must not end this process with a status that looks like ours."""
    try:
        return run(settings)
    except SystemExit as stop:
        raise UsageError(f"your code called sys.exit({stop.code!r}); remove that") from None


def report_bug(error: Exception) -> int:
    """Writes the traceback to a file, prints one line, and returns the exit status 70 (EX_SOFTWARE)."""
    text = f"{command_line()}\n\n{''.join(traceback.format_exception(error))}"
    with tempfile.NamedTemporaryFile("w", prefix="rgrad-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(text)
    what = f"{type(error).__name__}: {printable(str(error))}"[:300]
    print(
        f"error: this is a bug: {what}; please report it with the traceback, which is in {file.name}", file=sys.stderr
    )
    return 70


def command(model: type[S], run: Run[S]) -> NoReturn:
    """Runs `main` on the command line, then ends the process with its status.

    An unexpected exception is a bug. Its traceback is written to a file, and the status is 70. It is 74 if the results
    are written but the report could not be printed (EX_IOERR).
    """
    watch_interrupts()
    make_streams_lenient()
    try:
        status = main(model, run)
        ignore_interrupts()
    except Exception as error:
        ignore_interrupts()
        status = report_bug(error)
    if status == 0 and (why := lost_output()):
        print(f"error: the report could not be printed: {why}; the results are written", file=sys.stderr)
        status = 74
    sys.stdout.flush()
    sys.stderr.flush()
    default_interrupts()
    sys.exit(status)
