"""Settings from flags and TOML files, with one typed model for both. Flags take precedence over `--config PATH`.

This module does not import jax, so `--help` responds immediately.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import math
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from experiments.common.errors import UsageError, nearest

Number = float | list[Any]  # a number, or nested lists of them


def parse_pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """Parses `["loc=1,2", "scale=3"]` into `{"loc": [1.0, 2.0], "scale": 3.0}`. Nested arrays are written `[[1,0],[0,1]]`."""
    pairs = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not (name and equals and text):
            raise ValueError(f"{argument!r} is not of the form name=value; write e.g. loc=3, or loc=1,2,3 for an array")
        try:
            if text.startswith("["):
                pairs[name] = json.loads(text)
            else:
                numbers = [float(part) for part in text.split(",")]
                pairs[name] = numbers if "," in text else numbers[0]
        except ValueError:
            raise ValueError(f"{argument!r}: {text!r} is not a number or a comma-separated list of numbers") from None
    return pairs


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
    for argument in arguments:
        if not all(argument.partition("=")):
            raise ValueError(f"{argument!r} is not of the form name=value; write e.g. n=100")
    return {name: text for name, _, text in (argument.partition("=") for argument in arguments)}


WHERE = Annotated[dict[str, str], pairs(parse_words, "NAME=VALUE ...")]


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{' '.join(map(str, values))} has a duplicate; give each value once")
    return values


ONCE = AfterValidator(_once)  # for values that identify rows: duplicates would give equal rows


class ExperimentSettings(BaseModel):
    """Settings that all experiments share."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    config: str | None = None
    """A TOML file with any of these settings. Flags take precedence over it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of all random numbers, an integer."""
    float_width: int = 32
    """Bits of a float: 32 or 64."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Platform to compute on. Default: that of jax, which prefers a GPU."""
    out: str | None = None
    """Folder for the results. Existing files with the same names are replaced. Default: results/EXPERIMENT/TIME."""
    readme: bool = False
    """Also rewrite the tables and the picture of the experiment's README.md from this run."""

    @field_validator("out", "resume", check_fields=False)
    @classmethod
    def _folder(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).expanduser())

    @field_validator("float_width")
    @classmethod
    def _float_width(cls, value: int) -> int:
        if value not in (32, 64):
            raise ValueError(f"{value} is not a float width; use 32 or 64")
        return value


class ProblemSettings(ExperimentSettings):
    """Settings that all experiments on a problem share."""

    params: Annotated[dict[str, Number], NAME_VALUE] = {}
    """Parameters that replace the problem's own, e.g. loc=3 scale=0.5 mean=1,2,3."""
    wrt: Annotated[tuple[str, ...], ONCE] = ()
    """Parameters to differentiate. Default: the problem's own choice, or all."""

    @field_validator("params")
    @classmethod
    def _params(cls, params: dict[str, Number]) -> dict[str, Number]:
        for name, value in params.items():
            if not all(isinstance(x, int | float) and math.isfinite(x) for x in _flat(value)):
                raise ValueError(f"{name} = {value} is not finite; give finite numbers")
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
    path = _value_of("--config", argv)
    from_file = read_toml(path, model) if path is not None else {}
    resumed = getattr(model, "resumed", None)
    if resumed and (folder := _value_of("--resume", argv)) is not None:
        from_file = resumed(folder) | from_file
    default = validated(model, from_file, f"--config {path}")
    flags = _parse_flags(model, argv, default, prog)
    other_problem = "problem" in flags and flags["problem"] != getattr(default, "problem", None)
    if "params" in flags and not other_problem:
        flags["params"] = {**from_file.get("params", {}), **flags["params"]}
    if other_problem:
        given = {flag for flag in ("params", "wrt") if any(a.split("=")[0] == f"--{flag}" for a in argv)}
        flags |= {name: model.model_fields[name].default for name in {"params", "wrt"} - given}
    return validated(model, flags, "flags")


def read_toml(path: str, model: type[BaseModel]) -> dict[str, Any]:
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from None
    known = set(model.model_fields) - {"config"}
    for key in found:
        if key not in known:
            raise UsageError(f"--config {path}: unknown key {key!r}{nearest(key, known)}")
    return found


def validated(model: type[S], values: dict[str, Any], where: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        given = "" if "Value error" in first["msg"] else f", not {first['input']!r}"
        if first["type"] == "too_short":
            message, given = "nothing is given", "; give at least one"
        name = f"--{place.replace('_', '-')}" if where == "flags" else f"{where}: {place}"
        raise UsageError(f"{name}: {message[:1].lower()}{message[1:]}{given}") from None


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
    unread = re.search(r"no type matching|valid parse|invalid literal|could not convert", box)
    if unread and (named := re.search(r"--[a-z][\w-]*", box)) and named[0] in flags:
        at = max((i for i, argument in enumerate(argv) if argument.split("=")[0] == named[0]), default=len(argv))
        given = re.split(r" --", " ".join(argv[at:]).removeprefix(named[0]).lstrip(" ="))[0]
        return f"{named[0]}: {given!r} cannot be parsed; expected: {model.model_fields[flags[named[0]]].description}"
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
    return re.sub(r"^Error parsing (--[\w-]+):? ?", r"\1: ", message)


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for i, argument in enumerate(argv):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            if i + 1 == len(argv):
                raise UsageError(f"{flag}: a value is missing; give a path")
            return argv[i + 1]
    return None


def _flat(value: Any) -> list[Any]:
    return [x for part in value for x in _flat(part)] if isinstance(value, list | tuple) else [value]


def command_line() -> str:
    """The command line as typed, for the record."""
    module = sys.modules["__main__"].__spec__
    return " ".join(["python -m " + module.name.removesuffix(".__main__") if module else sys.argv[0], *sys.argv[1:]])
