"""Loads a problem or an estimator by name: a built-in one, or the user's own as `module:attribute`."""

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.paths import user_path
from experiments.common.problems import PROBLEMS

ESTIMATORS: Mapping[str, Callable[..., Any]] = {name: row.estimator for name, row in rgrad.ESTIMATORS.items()}
ALL = "all"  # selects every estimator that applies
COMPARED = "compared"  # selects the default estimators of `rgrad.compare`


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """The names without duplicates, with `all` and `compared` replaced by what they stand for."""
    groups = {
        ALL: tuple(ESTIMATORS),
        COMPARED: tuple(n for n, row in rgrad.ESTIMATORS.items() if row.compared and not row.biased),
    }
    return tuple(dict.fromkeys(part for name in names for part in groups.get(name, (name,))))


def load_estimator(name: str) -> rgrad.Estimator:
    """The estimator with this name, or the user's own `module:function`."""
    found = load("--estimators", name, ESTIMATORS)
    if not callable(found):
        raise UsageError(
            f"--estimators {name}: expected a function (f, q, key, n) -> terms, got {type(found).__name__}"
        )
    return found


def load_problem(name: str) -> rgrad.Problem:
    """The problem with this name, or the user's own `module:attribute`."""
    found = load("--problem", name, PROBLEMS)
    for part in ("distribution", "objective", "params"):
        try:
            there = hasattr(found, part)
        except Exception as error:  # a property
            raise UsageError(f"--problem {name}: {part!r} raised {where_and_what(error)}; fix that first") from None
        if not there:
            raise UsageError(
                f"--problem {name}: it has no {part!r}; a problem has distribution(params), objective(params, x) and "
                "params, e.g. a dict of names to numbers or arrays"
                + (" (if __init__ sets it, give an instance and not the class)" if isinstance(found, type) else "")
            )
    return found


def load(flag: str, name: str, shipped: Mapping[str, Any]) -> Any:
    """The built-in object with this name, or the user's own `module:attribute`. `flag` is for error messages."""
    if ":" not in name:
        if name in shipped:
            return shipped[name]
        if name.endswith(".py"):
            raise UsageError(f"{flag} {name}: this is a file; write {name}:NAME with a name defined in it")
        raise UsageError(f"{flag} {name}: unknown name{nearest(name, shipped)}, or your own as module:attribute")
    return load_own(flag, name)


def load_own(flag: str, name: str, files: dict[str, ModuleType] | None = None) -> Any:
    """The user's own `module:attribute`. `flag` is for error messages.

    Args:
        files: the modules of the files that were loaded before, by path. A file in it is not run again, and a file that
            is loaded is added. So several objects of one file belong together.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        wanted = (
            f"{name}:NAME with a name defined in it"
            if name.endswith(".py")
            else "module:attribute, or file.py:attribute"
        )
        raise UsageError(f"{flag} {name}: write {wanted}")
    files = {} if files is None else files
    module = files[place] if place in files else _import(flag, name, place)
    files[place] = module
    if not hasattr(module, attribute):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UsageError(f"{flag} {name}: {place} has no {attribute!r}{nearest(attribute, names)}")
    return getattr(module, attribute)


@contextlib.contextmanager
def _in_path(folder: str) -> Iterator[None]:
    """Searches `folder` first for modules, within the context."""
    if folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import(flag: str, name: str, place: str) -> Any:
    """Imports `place`: a dotted name (the current folder is searched too), or the path of a .py file."""
    if place.startswith(".") and not place.endswith(".py"):
        raise UsageError(
            f"{flag} {name}: a module cannot start with a dot; write package.module:attribute, or file.py:attribute"
        )
    try:
        with _in_path(str(Path.cwd())):
            return _from_file(flag, name, place) if place.endswith(".py") else importlib.import_module(place)
    except (UsageError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise UsageError(
                f"{flag} {name}: no module {error.name!r} here or installed; write file.py:attribute, or run "
                "this from the folder that contains the module"
            ) from None
        raise UsageError(f"{flag} {name}: the import of {error.name!r} failed; install it") from None
    except BaseException as error:  # also SystemExit, which would end this process with the status of the user's file
        raise UsageError(f"{flag} {name}: the import raised {where_and_what(error)}; fix that first") from None


def _from_file(flag: str, name: str, place: str) -> Any:
    """Imports a .py file under a unique module name: a user's random.py must not replace Python's."""
    try:
        path = Path(user_path(place))
        there = path.is_file()
    except (OSError, ValueError) as error:  # e.g. the name is too long
        raise UsageError(f"{flag} {name}: {getattr(error, 'strerror', error)}; give the path of a .py file") from None
    if not there:
        raise UsageError(f"{flag} {name}: no file {place}; give its path relative to the current folder")
    spec = importlib.util.spec_from_file_location(f"rgrad_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def where_and_what(error: BaseException) -> str:
    """An exception in one line, with the innermost place in the user's code: `KeyError: 'scale' (mine.py, line 7)`."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
