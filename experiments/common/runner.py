"""From the command line to an experiment: settings, errors, exit status.

Nothing here imports jax, so that `--help` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from pydantic import BaseModel

from experiments.common.errors import UsageError
from experiments.common.interrupt import remember_interrupts
from experiments.common.settings import parse

S = TypeVar("S", bound=BaseModel)
Run = Callable[[S], int | None]


def run_of(package: str, model: type[S], before: Callable[[S], None] | None = None) -> Run[S]:
    """The function `run` of `package.experiment`, which is imported when it is called.

    Args:
        model: the settings that it takes.
        before: called with the settings before jax is imported.
    """

    def run(settings: S) -> int | None:
        if before is not None:
            before(settings)
        if (width := getattr(settings, "float_width", None)) is not None:
            import jax  # slow, and not needed for `--help`

            jax.config.update("jax_enable_x64", width == 64)
        found: int | None = importlib.import_module(f"{package}.experiment").run(settings)
        return found

    run.__module__ = package
    return run


def main(model: type[S], run: Run[S], argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status: that of `run`, or 0; 2 and one line for bad input; 130 when interrupted."""
    try:
        settings = parse(model, sys.argv[1:] if argv is None else argv, f"python -m {run.__module__}")
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
        print("error: out of memory; ask for smaller --num-samples, or for fewer estimators at once", file=sys.stderr)
        return 2


def command(model: type[S], run: Run[S]) -> NoReturn:
    """`main` on the command line, and then the end of the process with its status."""
    remember_interrupts()
    status = main(model, run)
    if status == 130:
        # At once: a computation that goes on in a thread of its own while the interpreter is torn down may crash it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
