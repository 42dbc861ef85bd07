"""What is audited, the audits, and their rows."""

import linecache
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

import experiments
import rgrad
from experiments.audit.gallery import LOSSES, GalleryLoss
from experiments.audit.settings import AuditSettings
from experiments.common.errors import UsageError
from experiments.common.loading import load_own
from experiments.common.measuring import usage
from experiments.common.progress import Advance

OK, BIASED = "ok", "BIASED"
NUMBERS = ("gradient", "gradient_error", "truth", "truth_error", "bias", "low", "high", "relative", "largest_bias",
           "largest_relative")  # fmt: skip
CUT_COLUMNS = ("loss", "file", "line", "function", "code", "operation", "share", "row", "missing", "cure")
LIBRARIES = (*(str(Path(package.__file__ or "").parent) for package in (rgrad, experiments)), sysconfig.get_path("stdlib"),
             "<frozen")  # fmt: skip
Row = dict[str, Any]


class AuditTask(NamedTuple):
    """The losses to audit, by name."""

    losses: Mapping[str, GalleryLoss]
    own: bool
    """Whether the loss is the user's. Otherwise these are losses of the gallery."""


class Audited(NamedTuple):
    """A loss and its audit."""

    name: str
    right: bool | None
    """Whether the gradient is right. None if that is not known."""
    mistake: str
    audit: rgrad.Audit

    @property
    def worst(self) -> Row | None:
        """The row with the largest bias. None if the audit has no rows."""
        wrong = [row for row in self.audit.rows if row["verdict"] == BIASED]
        size = lambda row: abs(row["relative"]) if wrong else row["largest_relative"]
        return max(wrong or self.audit.rows, key=size, default=None)


def prepare(settings: AuditSettings) -> AuditTask:
    """Loads what is audited, before anything is written.

    Raises:
        UsageError: a flag does not fit the others, or the code cannot be loaded.
    """
    if settings.loss is None:
        given = {"--params": settings.params, "--value": settings.value, "--wrt": " ".join(settings.wrt)}
        needless = [f"{flag} {what}" for flag, what in given.items() if what] + ["--has-aux"] * settings.has_aux
        if needless:
            raise UsageError(f"{needless[0]}: --loss is missing; give it too, e.g. --loss mine.py:loss")
        return AuditTask({name: LOSSES[name] for name in settings.gallery}, own=False)
    if settings.demo:
        raise UsageError(f"--demo: --loss {settings.loss} is given too; leave one of them out")
    if settings.readme:
        raise UsageError(f"--readme: the README shows the gallery, not {settings.loss}; leave out --loss or --readme")
    if settings.params is None:
        raise UsageError(
            f"--loss {settings.loss}: --params is missing; give the point too, e.g. --params mine.py:params"
        )
    files: dict[str, ModuleType] = {}
    loss = _function("--loss", settings.loss, files)
    value = None if settings.value is None else _function("--value", settings.value, files)
    params = load_own("--params", settings.params, files)
    return AuditTask({settings.loss: GalleryLoss(loss, params, "", value)}, own=True)


def _function(flag: str, name: str, files: dict[str, ModuleType]) -> Callable[..., Any]:
    found = load_own(flag, name, files)
    if not callable(found):
        raise UsageError(f"{flag} {name}: expected a function (params, key) -> scalar, got {type(found).__name__}")
    return found


def audits(task: AuditTask, settings: AuditSettings, key: jax.Array, advance: Advance) -> list[Audited]:
    """The audit of every loss.

    Raises:
        UsageError: a loss, its parameters or its value cannot be audited.
    """
    found = []
    for name, one in task.losses.items():
        with blamed(settings):
            audit = rgrad.audit(
                one.loss, one.params, key, budget=settings.budget, value=one.value, wrt=settings.wrt or None,
                has_aux=settings.has_aux, order=settings.order, tolerance=settings.tolerance,
            )  # fmt: skip
        found.append(Audited(name, None if task.own else one.right, one.mistake, audit))
        advance(1)
    return found


@contextmanager
def blamed(settings: AuditSettings) -> Iterator[None]:
    """Turns an exception of `rgrad.audit` into a UsageError that names the flag. A bug of our own stays as it is."""
    try:
        with usage("", Exception):
            yield
    except UsageError as error:
        cause, text = error.__context__ or error, str(error)
        known = text.startswith("audit: ")
        theirs = isinstance(cause, TypeError | ValueError | SystemExit) or _in_users_code(cause)
        if not known and (settings.loss is None or not theirs):
            raise cause from None
        text = text.removeprefix("audit: ")
        raise UsageError(f"{_flag_of(text, settings)}{text.removeprefix('wrt: ')}") from None


def _in_users_code(error: BaseException | None) -> bool:
    """Whether the exception was raised below code that is neither ours nor that of a library."""
    frames = traceback.extract_tb(error.__traceback__ if error is not None else None)
    return any("site-packages" not in frame.filename and not frame.filename.startswith(LIBRARIES) for frame in frames)


def _flag_of(text: str, settings: AuditSettings) -> str:
    """The flag that an error message of `rgrad.audit` is about, and what was given."""
    if settings.loss is None or text.startswith(("it compiles ", "key ")):  # about the settings of jax
        return "audit: "
    if text.startswith("wrt"):
        return f"--wrt {' '.join(settings.wrt)}: "
    if text.startswith(("parameter ", "params ", "two parameters")):
        return f"--params {settings.params}: "
    if text.startswith(("value ", "with has_aux, value ")):
        return f"--value {settings.value}: "
    return f"--loss {settings.loss}: "


def rows_of(found: list[Audited]) -> list[Row]:
    """The rows of all audits. An audit without rows has one, with the reason."""
    rows = []
    for one in found:
        of_loss = {"loss": one.name, "right": one.right, "audit": one.audit.verdict}
        cuts = "; ".join(f"{place_of(cut)} {cut.operation} {cut.share:.0%}" for cut in one.audit.cuts)
        for row in one.audit.rows:
            numbers = {name: row[name] for name in NUMBERS} | {"noise": noise_of(row)}
            rest = {name: row[name] for name in ("step", "keys", "calls", "seconds_needed", "why")}
            rows.append({**of_loss, "row": row["name"], "verdict": row["verdict"], **numbers, **rest, "cuts": cuts})
        if not one.audit.rows:
            none = dict.fromkeys((*NUMBERS, "noise", "step", "keys", "calls", "seconds_needed"))
            sentence = {"why": one.audit.sentence, "cuts": ""}
            rows.append({**of_loss, "row": "", "verdict": one.audit.verdict, **none, **sentence})
    return rows


def cuts_of(found: list[Audited]) -> list[Row]:
    """A row for each cut and each row of the audit in which a derivative is missing because of it."""
    return [
        {"loss": one.name, "file": os.path.relpath(cut.file) if cut.file else "", "line": cut.line,
         "function": cut.function, "code": code_of(cut), "operation": cut.operation, "share": cut.share, "row": row,
         "missing": missing, "cure": cut.cure}
        for one in found for cut in one.audit.cuts for row, missing in cut.missing.items()
    ]  # fmt: skip


def place_of(cut: rgrad.Cut) -> str:
    return f"{Path(cut.file).name}:{cut.line}" if cut.file else "unknown place"


def code_of(cut: rgrad.Cut) -> str:
    """The line of code. Empty if it is not known."""
    return linecache.getline(cut.file, cut.line).strip() if cut.file else ""


def noise_of(row: Row) -> float:
    """The standard deviation of one gradient."""
    return float(row["gradient_error"] * np.sqrt(row["calls"]))


def relative_to(row: Row) -> float:
    """What turns a bias of this row into a relative one. It has the sign of the truth: a gradient that is too small has a
    negative relative bias."""
    scale = row["largest_relative"] / row["largest_bias"] if row["largest_bias"] > 0 else 0.0
    return float(scale * (-1 if row["truth"] < 0 else 1))
