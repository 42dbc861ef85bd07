"""Settings from flags and TOML files, with one typed model for both. Flags take precedence over `--config PATH`.

This module does not import jax, so `--help` responds immediately.
"""

import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import re
import reprlib
import sys
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from experiments.common.errors import UsageError, nearest
from experiments.common.paths import user_path

# A number, or nested lists of numbers. `_params` rejects values that are not finite, with the name of the parameter.
Number = Annotated[float, Field(allow_inf_nan=True)] | list[Any]
DEPTH = 32  # the largest number of axes of an array. NumPy and JAX have a limit too, but their messages are obscure


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_shown = _SHORT.repr  # for error messages, which are one line whatever was given


def split_pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Splits `["loc=1"]` into `("loc=1", "loc", "1")`. Raises ValueError if a name is given twice."""
    seen = set()
    for argument in arguments:
        name, _, text = argument.partition("=")
        if name in seen:
            raise ValueError(f"{name!r} is given twice; give it once")
        seen.add(name)
        yield argument, name, text


def parse_pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses `["loc=1,2", "scale=3"]` into `{"loc": [1.0, 2.0], "scale": 3.0}`. Nested arrays are written `[[1,0],[0,1]]`."""
    pairs = {}
    for argument, name, text in split_pairs(arguments):
        if not (name and text):
            raise ValueError(
                f"{_shown(argument)} is not of the form name=value; write e.g. loc=3, or loc=1,2,3 for an array"
            )
        try:
            if text.startswith("["):
                pairs[name] = json.loads(text)
            else:
                numbers = [float(part) for part in text.split(",")]
                pairs[name] = numbers if "," in text else numbers[0]
        except RecursionError:
            raise ValueError(f"{name!r} is nested too deeply; give an array of at most {DEPTH} axes") from None
        except ValueError:
            raise ValueError(f"{name!r}: {_shown(text)} is not a number or a comma-separated list of numbers") from None
    return pairs


def dotted(tables: Mapping[str, Any], is_value: Callable[[Any], bool]) -> dict[str, Any]:
    """Nested tables as one, with dots in the names, because TOML reads `q.loc = 1` as a table `q` that has `loc`."""
    flat: dict[str, Any] = {}
    rest = list(tables.items())[::-1]
    while rest:  # not recursive, because the tables may be nested deeply
        name, value = rest.pop()
        if is_value(value) or not value:
            flat[name] = value
        else:
            rest += [(f"{name}.{inner}", x) for inner, x in value.items()][::-1]
    return flat


def pairs(parse: Callable[[Sequence[str]], dict[str, Any]], metavar: str) -> Any:
    """A tyro specification for a flag that takes several NAME=SOMETHING arguments."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda x: isinstance(x, dict),
        str_from_instance=lambda given: [f"{name}={json.dumps(value)}" for name, value in given.items()],
    )


NAME_VALUE = pairs(parse_pairs, "NAME=VALUE ...")


def parse_words(arguments: Sequence[str]) -> dict[str, str]:
    """Parses `["n=100"]` into `{"n": "100"}`."""
    words = {}
    for argument, name, text in split_pairs(arguments):
        if not (name and text):
            raise ValueError(f"{_shown(argument)} is not of the form name=value; write e.g. n=100")
        words[name] = text
    return words


WHERE = Annotated[dict[str, str], pairs(parse_words, "NAME=VALUE ...")]


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{' '.join(map(str, values))} has a duplicate; give each value once")
    return values


ONCE = AfterValidator(_once)  # for values that identify rows: duplicates would give equal rows


def _integer(value: Any) -> Any:
    if type(value) is not int:
        raise ValueError(f"expected an integer, not {_shown(value)}")
    return value


INTEGER = BeforeValidator(_integer)  # for a Literal of integers, which would accept True and 1.0


PathText = Annotated[str, AfterValidator(user_path)]  # text, because a Path would be recorded in another form

# Strict: `seed = "3"`, `seed = true` and `seed = 3.0` are mistakes, not ways to write 3.
STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True, allow_inf_nan=False)


class ExperimentSettings(BaseModel):
    """Settings that all experiments share."""

    model_config = STRICT

    config: str | None = None
    """A TOML file with any of these settings. Flags take precedence over it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of all random numbers, an integer."""
    float_width: int = 32
    """Bits of a float: 32 or 64."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Platform to compute on. Default: that of jax, which prefers a GPU."""
    out: PathText | None = None
    """Folder for the results. Existing files with the same names are replaced. Default: results/EXPERIMENT/TIME."""
    readme: bool = False
    """Also rewrite the tables and the picture of the experiment's README.md from this run."""

    @field_validator("float_width")
    @classmethod
    def _float_width(cls, value: int) -> int:
        if value not in (32, 64):
            raise ValueError(f"{value} is not a float width; use 32 or 64")
        return value


class ProblemSettings(ExperimentSettings):
    """Settings that all experiments on a problem share."""

    params: Annotated[dict[str, Number], NAME_VALUE] = {}
    """Parameters that replace the problem's own, e.g. loc=3 mean=1,2,3. Within a container: q.loc=3, or net.0=[1,2]."""
    wrt: Annotated[tuple[str, ...], ONCE] = ()
    """Parameters to differentiate. Default: the problem's own choice, or all."""

    @field_validator("params", mode="before")
    @classmethod
    def _dotted(cls, params: Any) -> Any:
        return dotted(params, lambda value: not isinstance(value, dict)) if isinstance(params, dict) else params

    @field_validator("params")
    @classmethod
    def _params(cls, params: dict[str, Number]) -> dict[str, Number]:
        for name, value in params.items():
            check_numbers(name, value)
        return params


S = TypeVar("S", bound=BaseModel)


def parse(model: type[S], argv: Sequence[str], prog: str) -> S:
    """The settings from the command line, then from `--config`, then the defaults of the model, in this order.

    Each parameter on the command line replaces the parameter with the same name in the file. If `--problem` on the command
    line differs from that in the file, `params` and `wrt` of the file are ignored: they belong to another problem. If the
    model has `resumed`, the settings that it returns for `--resume PATH` replace the defaults.

    Raises:
        UsageError: unknown flag or key (the message names the nearest known one), or a value that is not allowed.
        SystemExit: status 0, for `--help`.
    """
    _refuse_repeated(argv)
    path = _value_of("--config", argv)
    from_file = read_toml(path, model) if path is not None else {}
    resumed = getattr(model, "resumed", None)
    where = f"--config {path}"
    if resumed and (folder := _value_of("--resume", argv)) is not None:
        where = where if path else f"--resume {folder}"
        saved = _with_tuples(resumed(_path("--resume", folder)))
        _refuse_code_of_others(folder, saved, from_file, argv)
        from_file = saved | from_file
    default = validated(model, from_file, where)
    flags = _parse_flags(model, argv, default, prog)
    other_problem = "problem" in flags and flags["problem"] != getattr(default, "problem", None)
    if isinstance(flags.get("params"), dict) and not other_problem:
        flags["params"] = {**default.params, **flags["params"]}  # type: ignore[attr-defined]
    if other_problem:
        given = {flag for flag in ("params", "wrt") if _given(f"--{flag}", argv)}
        flags |= {name: model.model_fields[name].default for name in {"params", "wrt"} - given}
    return validated(model, flags, "flags")


def read_toml(path: str, model: type[BaseModel]) -> dict[str, Any]:
    try:
        found = tomllib.loads(Path(_path("--config", path)).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}; give the path of a TOML file") from None
    except RecursionError:
        raise UsageError(f"--config {path}: not TOML: it is nested too deeply; give fewer brackets") from None
    except ValueError as error:  # not TOML, not UTF-8, an integer of thousands of digits, or a null byte in the path
        raise UsageError(f"--config {path}: not TOML: {error}; fix it") from None
    known = set(model.model_fields) - {"config"}
    for key in found:
        if key not in known:
            raise UsageError(f"--config {path}: unknown key {key!r}{nearest(key, known)}")
    return _with_tuples(found)


def _with_tuples(found: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with tuples for the lists of TOML and JSON, which have no tuples. Arrays within a table stay lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def validated(model: type[S], values: dict[str, Any], where: str) -> S:
    """The settings with these values. `where` is `flags`, or the file that they come from, for error messages."""
    called = lambda name: f"--{name.replace('_', '-')}" if where == "flags" else f"{where}: {name}"
    for name, value in values.items():
        if (control := _control_character(value)) is not None:
            raise UsageError(f"{called(name)}: it contains the control character {control!r}; remove it")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        given = "" if "Value error" in first["msg"] else f", not {_shown(first['input'])}"
        if first["type"] == "too_short":
            message, given = "nothing is given", "; give at least one"
        if first["type"] == "missing":
            message, given = f"a value is missing in {_shown(first['input'])}", "; give all of them"
        if first["type"] == "extra_forbidden":
            message, given = "unknown key", ""
        raise UsageError(f"{called(str(first['loc'][0]))}: {message[:1].lower()}{message[1:]}{given}") from None


def _control_character(value: Any) -> str | None:
    """A control character, e.g. a null byte or a line break, in any text within the value. Paths and names have none."""
    rest = [value]
    while rest:  # not recursive, because the value may be nested deeply
        value = rest.pop()
        if isinstance(value, str):
            if found := next((c for c in value if unicodedata.category(c) in ("Cc", "Cs")), None):
                return found
        elif isinstance(value, Mapping):
            rest += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            rest += value
    return None


def _refuse_repeated(argv: Sequence[str]) -> None:
    """Raises UsageError if a flag is given twice. Only the last would count, even for a flag with several values."""
    seen = set()
    for argument in argv:
        flag = argument.partition("=")[0].replace("_", "-")
        name = flag.removeprefix("--").removeprefix("no-")
        if flag.startswith("--") and name in seen:
            raise UsageError(f"{flag}: it is given twice; give it once, with all its values")
        if flag.startswith("--"):
            seen.add(name)


def _refuse_code_of_others(
    folder: str, saved: Mapping[str, Any], from_file: Mapping[str, Any], argv: Sequence[str]
) -> None:
    """Raises UsageError if the folder of `--resume` names code that the user has not named.

    A folder may come from someone else. Reading it must not run code, and the checksums of a plan do not say who wrote it.
    """
    for name in ("problem", "estimators"):
        given = saved.get(name, ())
        names = [given] if isinstance(given, str) else given
        if any(":" in str(each) for each in names) and name not in from_file and not _given(f"--{name}", argv):
            words = " ".join(str(each) for each in names)
            raise UsageError(
                f"--resume {folder}: its plan names code to import: {words}; if you trust it, repeat --{name} {words}"
            )


def _parse_flags(model: type[S], argv: Sequence[str], default: S, prog: str) -> dict[str, Any]:
    """The flags of the command line, on top of `default`. tyro parses the types. The model checks the values."""
    fields: list[Any] = []
    for name, field in model.model_fields.items():
        words = tyro.conf.arg(help=field.description or "")
        kind: Any = Annotated[(field.annotation, *field.metadata, words)]
        fields.append((name, kind, dataclasses.field(default_factory=partial(getattr, default, name))))
    flags = dataclasses.make_dataclass("Flags", fields)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            found: Any = tyro.cli(flags, args=list(argv), prog=prog, description=inspect.getdoc(model))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(shown.getvalue(), model, argv)) from None
    return {name: getattr(found, name) for name in model.model_fields}


def _one_line(box: str, model: type[BaseModel], argv: Sequence[str]) -> str:
    """The message from the box that tyro prints, as one line."""
    flags = {f"--{name.replace('_', '-')}": name for name in model.model_fields}
    for argument in argv:
        flag = argument.split("=")[0]
        if flag.startswith("--") and flag.replace("_", "-") not in {*flags, "--help"}:
            return f"unknown flag {flag}{nearest(flag, flags)}"
    unread = re.search(r"no type matching|valid parse|invalid literal|could not convert|Could not parse", box)
    if unread and (named := re.search(r"--[a-z][\w-]*", box)) and named[0] in flags:
        at = max((i for i, argument in enumerate(argv) if argument.split("=")[0] == named[0]), default=0)
        first = [argv[at].partition("=")[2]] if "=" in argv[at] else []
        given = " ".join([*first, *itertools.takewhile(lambda word: not word.startswith("--"), argv[at + 1 :])])
        expected = model.model_fields[flags[named[0]]].description
        return f"{named[0]}: {_shown(given)} cannot be parsed; expected: {expected}"
    # The message is between the first rule and the next. The first rule is the top of the frame, with the title. If
    # only ASCII is available, it is a rule below the title.
    lines = box.strip().splitlines()
    blocks: list[list[str]] = [[]]
    for line in lines:
        if re.search(r"─────|-----", line):
            blocks.append([])
        else:
            blocks[-1].append(line.strip(" │|"))
    message = " ".join(blocks[1]) if len(blocks) > 1 else box.strip()
    if stray := re.match(r"Unrecognized options: (.*)", message):
        return f"unknown argument {stray[1]!r}; flags start with --, e.g. --seed 1"
    if choice := re.match(r"invalid choice (.*) for argument '(--[\w-]+)'\. Expected one of (.*)\.", message):
        return f"{choice[2]}: {choice[1]} is not a choice; expected one of {choice[3]}"
    return re.sub(r"^Error parsing (--[\w-]+):? ?", r"\1: ", message)


def _path(flag: str, value: str) -> str:
    try:
        return user_path(value)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _given(flag: str, argv: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == flag for argument in argv)


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for i, argument in enumerate(argv):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            if i + 1 == len(argv):
                raise UsageError(f"{flag}: a value is missing; give a path")
            return argv[i + 1]
    return None


def check_numbers(name: str, value: Any) -> None:
    """Raises ValueError if the value is not a finite number, or an array of them as nested lists of equal lengths."""
    level, axes = [value], 0
    while any(isinstance(part, list | tuple) for part in level):
        lengths = {len(part) if isinstance(part, list | tuple) else None for part in level}
        if len(lengths) > 1:
            raise ValueError(f"{name} = {_shown(value)} is not an array: its parts have different shapes; fix it")
        if lengths == {0}:
            raise ValueError(f"{name} = {_shown(value)} is empty; give at least one number")
        level, axes = [x for part in level for x in part], axes + 1
        if axes > DEPTH:
            raise ValueError(f"{name} is nested too deeply; give an array of at most {DEPTH} axes")
    for x in level:
        if isinstance(x, bool) or not isinstance(x, int | float):
            raise ValueError(f"{name} = {_shown(value)} is not a number; give finite numbers")
        if not abs(x) <= sys.float_info.max:
            raise ValueError(f"{name} = {_shown(value)} is not finite; give finite numbers")


def command_line() -> str:
    """The command line as typed, for the record."""
    module = sys.modules["__main__"].__spec__
    return " ".join(["python -m " + module.name.removesuffix(".__main__") if module else sys.argv[0], *sys.argv[1:]])
