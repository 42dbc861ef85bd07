"""Writes results to disk, completely or not at all, with their provenance."""

import contextlib
import csv
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.errors import UsageError
from experiments.common.interrupt import cleaned, held, keep
from experiments.common.progress import Advance, progress
from experiments.common.readme import readme_files, readme_of
from experiments.common.settings import command_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PACKAGES = ("rgrad", "jax", "jaxlib", "numpyro", "optax", "numpy", "scipy", "matplotlib")
Row = Mapping[str, Any]
FIGURES = ("figure.png", "figure.svg")
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}")  # the temporary names of `write` and `written`


class Outcome(NamedTuple):
    """The findings of a study."""

    rows: Sequence[Row]
    figure: Callable[[], Mapping[str, bytes]]
    """Draws the figures: files by name."""
    report: Callable[[], Any]
    """Prints the findings. Returns a true value if they are wrong."""
    provenance: Mapping[str, Any] = {}
    """Additional provenance for `result.json`."""
    tables: Mapping[str, str] = {}
    """Markdown for the blocks of these names in the experiment's README."""
    files: Mapping[str, bytes] = {}
    """Tables other than that of the rows."""


def recorded(settings: Any, experiment: str, work: float, what: str, study: Callable[[Advance], Outcome]) -> int:
    """Runs a study and records it: folder, progress, files, report. Returns the exit status, 1 if the findings are wrong.

    NumPyro does not validate parameters during the study, because that takes seconds at every trace. They were
    validated before.

    Args:
        work: the total work, in the unit in which the study advances the progress bar.
        what: the label of the bar.
    """
    began = time.monotonic()
    readme = readme_of(experiment) if settings.readme else None
    with output_folder(settings.out, experiment) as folder:
        with progress(work, what) as advance, validation_enabled(False):
            outcome = study(advance)
        files = result_files(experiment, settings, outcome.rows, time.monotonic() - began, outcome.provenance)
        files |= outcome.files
        with saved(folder, files, outcome.figure) as figures:
            wrong = outcome.report()
            print(f"written to {folder}/: {', '.join([*files, *figures])}")
        if readme is not None and not wrong:
            rewrite_readme(readme, outcome.tables, figures)
    return 1 if wrong else 0


@contextlib.contextmanager
def saved(
    folder: Path, files: Mapping[str, bytes], figure: Callable[[], Mapping[str, bytes]]
) -> Iterator[Mapping[str, bytes]]:
    """Writes the files, then draws the figures and writes them. If drawing fails, it raises only after the context.

    Raises:
        UsageError: the figures could not be drawn, e.g. because LaTeX is asked for and not installed.
    """
    with held():  # first: the measurement is kept if drawing or printing fails
        write(folder, files)
        for name in FIGURES:  # of an earlier run in this folder
            (folder / name).unlink(missing_ok=True)
        keep(f"the results without the figure are in {folder}/")
    failed: UsageError | None = None
    figures: Mapping[str, bytes] = {}
    try:
        figures = figure()
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        failed = UsageError(f"the figure could not be drawn: {what}; the other results are in {folder}/")
    with held():
        write(folder, figures)
        keep(f"the results are in {folder}/" if failed is None else f"the results without the figure are in {folder}/")
    yield figures
    if failed is not None:
        raise failed


def rewrite_readme(path: Path, tables: Mapping[str, str], files: Mapping[str, bytes]) -> None:
    """Writes the tables and the picture of a run into the experiment's README and its folder."""
    rewritten = readme_files(path, tables, files)
    write(path.parent, rewritten)
    print(f"written to {path.parent}/: {', '.join(rewritten)}")


@contextlib.contextmanager
def output_folder(out: str | None, experiment: str) -> Iterator[Path]:
    """The folder for the results. It is created and tested before any work, and removed again if it stays empty.

    It is locked until the end of the context, so that no two runs write into it.

    Raises:
        UsageError: the folder is not writable, or another run uses it.
    """
    made: list[Path] = []

    def remove_if_empty() -> None:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()  # fails, as intended, if the folder has results

    with cleaned(remove_if_empty):
        with held():
            folder = _made(Path(out) if out else None, Path("results") / experiment, made)
        with locked(folder, f"--out {folder}: another run is writing into this folder"):
            remove_leftovers(folder)
            yield folder


def _made(out: Path | None, parent: Path, made: list[Path]) -> Path:
    """Creates the folder, `out` or a new one in `parent`, and tests it. Adds what it creates to `made`, the folder first.

    Raises:
        UsageError: the folder is not writable.
    """
    now = time.strftime("%Y-%m-%dT%H-%M-%S")
    names = (f"{now}-{i}" if i else now for i in itertools.count())  # two runs may start in the same second
    while True:
        folder = out or parent / next(names)
        try:
            made[:] = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=out is not None)
            probe = folder / f".probe.{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
            return folder
        except FileExistsError:
            if out is not None:
                raise UsageError(f"--out {folder}: this is a file; give a folder") from None
        except OSError as error:
            raise UsageError(f"--out {folder}: {error.strerror}; give a writable folder") from None


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Locks a file or a folder within the context. The lock also ends when the process ends, whatever the reason.

    Raises:
        UsageError: another process holds the lock. The message is `busy`, with advice.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(f"{busy}; wait for it, or stop it first") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writes that were killed. The folder must be locked."""
    for path in folder.glob(".*"):
        if LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes each file completely or not at all: first under temporary names, then renamed.

    A signal ends the run only after the last one. (After SIGKILL, some of them may still be those of an earlier run.)

    Raises:
        UsageError: the disk is full, or the folder is gone. No file is left half-written.
    """
    with held():
        _write(folder, files)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    staged: dict[Path, Path] = {}
    try:
        for name, content in files.items():
            beside = folder / f".{name}.{uuid.uuid4().hex}"
            staged[beside] = folder / name
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for beside, place in staged.items():
            beside.replace(place)
        _sync(folder)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}; free some space, or give another folder") from None
    finally:
        for beside in staged:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


@contextlib.contextmanager
def written(folder: Path, name: str) -> Iterator[Path]:
    """A temporary path for a file that is too large for memory. The file gets its name when all of it is on disk.

    Raises:
        UsageError: the disk is full, or the folder is gone. An older file with that name stays.
    """
    beside = folder / f".{name}.{uuid.uuid4().hex}"
    with cleaned(lambda: beside.unlink(missing_ok=True)):
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(folder / name)
            _sync(folder)
        except OSError as error:
            raise UsageError(f"--out {folder}: {error.strerror}; free some space, or give another folder") from None


def _sync(folder: Path) -> None:
    """Makes sure that the renames in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def result_files(
    experiment: str, settings: Any, rows: Sequence[Row], seconds: float, more: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, bytes]:
    """`result.json` and `table.csv`."""
    config = settings.model_dump(exclude={"out", "config", "readme"})
    result = {
        "experiment": experiment,
        "config": config,
        "provenance": {**provenance(settings.seed, settings.float_width, seconds), **more},
        "rows": rows,
    }
    text = json.dumps(plain(result), indent=2, allow_nan=False) + "\n"
    return {"result.json": text.encode(), "table.csv": table_csv(rows)}


def table_csv(rows: Sequence[Row], columns: Sequence[str] = ()) -> bytes:
    """The rows as CSV. The columns are their keys. If there may be no rows, give `columns`."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(rows))
    return table.getvalue().encode()


def provenance(seed: int, float_width: int, seconds: float) -> dict[str, Any]:
    commit, dirty = _git()
    return {
        "command": command_line(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 1),
        "seed": seed,
        "float_width": float_width,
        "device": jax.devices()[0].device_kind,
        "platform": jax.devices()[0].platform,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
    }


def version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> tuple[str | None, bool | None]:
    """The commit of the running code, and whether the tree differs from it. None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            here = Path(__file__).parent
            ran = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ran.stdout.strip() if ran.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    status = git("status", "--porcelain")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)


def plain(x: Any) -> Any:
    """Converts to plain Python types. A number that is not finite becomes None, because JSON cannot express it."""
    if isinstance(x, Mapping):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, str) or x is None:
        return x
    if hasattr(x, "tolist"):
        return plain(x.tolist())
    if isinstance(x, Sequence):
        return [plain(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
