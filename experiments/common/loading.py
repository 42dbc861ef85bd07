"""From a name to a problem or an estimator: those that are shipped, or `module:attribute` of the user's own."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.problems import PROBLEMS

ESTIMATORS: Mapping[str, Callable[..., Any]] = {name: row.estimator for name, row in rgrad.ESTIMATORS.items()}
ALL = "all"  # in place of names: every one of these that applies
COMPARED = "compared"  # every one that `rgrad.compare` has by default


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once, with all that `all` and `compared` stand for."""
    groups = {
        ALL: tuple(ESTIMATORS),
        COMPARED: tuple(n for n, row in rgrad.ESTIMATORS.items() if row.compared and not row.biased),
    }
    return tuple(dict.fromkeys(part for name in names for part in groups.get(name, (name,))))


def load_estimator(name: str) -> rgrad.Estimator:
    """The estimator of that name, or the user's own `module:function`."""
    found = load("--estimators", name, ESTIMATORS)
    if not callable(found):
        raise UsageError(
            f"--estimators {name}: it is a {type(found).__name__}; name a function (f, q, key, n) -> terms"
        )
    return found


def load_problem(name: str) -> rgrad.Problem:
    """The problem of that name, or the user's own `module:attribute`."""
    found = load("--problem", name, PROBLEMS)
    for part in ("distribution", "objective", "params"):
        if not hasattr(found, part):
            raise UsageError(
                f"--problem {name}: it has no {part!r}; a problem has distribution(params), objective(params, x) and "
                "params, a dict of names to numbers or arrays"
                + (" (where __init__ sets it, name an instance, not the class)" if isinstance(found, type) else "")
            )
    if not isinstance(found.params, Mapping) or not found.params:
        raise UsageError(f"--problem {name}: params must be a dict of names to numbers or arrays, with at least one")
    return found


def load(flag: str, name: str, shipped: Mapping[str, Any]) -> Any:
    """What is shipped under that name, or the user's own `module:attribute`; `flag` is for the error messages."""
    if ":" not in name:
        if name in shipped:
            return shipped[name]
        if name.endswith(".py"):
            raise UsageError(f"{flag} {name}: it is a file; write {name}:NAME, with the name of what is in it")
        raise UsageError(f"{flag} {name}: unknown name{nearest(name, shipped)}, or your own as module:attribute")
    place, _, attribute = name.rpartition(":")
    module = _import(flag, name, place)
    if not hasattr(module, attribute):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UsageError(f"{flag} {name}: {place} has no {attribute!r}{nearest(attribute, names)}")
    return getattr(module, attribute)


def _import(flag: str, name: str, place: str) -> Any:
    """The module `place`: a dotted name, found from the current folder too, or the path of a .py file."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise UsageError(f"{flag} {name}: there is no file {place}; give its path from the current folder")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise UsageError(
                f"{flag} {name}: there is no module {error.name!r} here or installed; write file.py:attribute, or run "
                "it from the folder that holds the module"
            ) from None
        raise UsageError(f"{flag} {name}: it imports {error.name!r}, which is not installed; install it") from None
    except Exception as error:
        raise UsageError(f"{flag} {name}: importing it raised {where_and_what(error)}; mend that first") from None


def where_and_what(error: BaseException) -> str:
    """`KeyError: 'scale' (mine.py, line 7)`: an exception in one line, with the innermost place of the user's code."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or '?').name}, line {error.lineno})"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text}{place}"
