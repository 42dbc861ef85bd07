"""Input that could be read as something else: flags, TOML, problem files, data files, folders, plots.

Each row of the tables runs an experiment's command in this process, in a folder with the row's files. The command must exit
with status 2, print one line on stderr without a traceback, and leave nothing in the folder. `GENERATED` has rows for every
number of every experiment. The other tables are written by hand, with one row for each kind of mistake.
"""

import dataclasses
import hashlib
import importlib
import io
import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import jax
import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from experiments.common import runner
from experiments.common.checkpoint import latest
from experiments.common.errors import UsageError
from experiments.common.settings import parse
from experiments.fit.data import load_data
from experiments.sweep.folder import share_locked
from experiments.vae import VaeSettings
from tests.experiments.conftest import EXPERIMENTS

ROOT = Path(__file__).parent.parent.parent
EVERY = (*EXPERIMENTS, "distributions", "plot")
QUICK = ("--estimators", "reparameterized", "--num-samples", "4", "--replicates", "100")


class Row(NamedTuple):
    """A command, and what its one line must say."""

    name: str
    flags: tuple[str, ...]
    says: str
    files: Mapping[str, str | bytes] = {}


def settings_of(name: str) -> tuple[type[BaseModel], Callable[..., Any]]:
    module = importlib.import_module(f"experiments.{name}")
    return getattr(module, f"{name.capitalize()}Settings"), module.run


def rows(*lines: tuple[Any, ...], name: str = "variance", more: tuple[str, ...] = ()) -> list[Row]:
    """Rows from (flags as one line or a tuple, message, files)."""
    made = []
    for flags, says, *files in lines:
        words = tuple(shlex.split(flags)) if isinstance(flags, str) else flags
        made.append(Row(name, (*words, *more), says, *files))
    return made


# Numbers of all experiments.


def bounds_of(metadata: Any) -> tuple[float | None, float | None]:
    """A number just below and a number just above the range, or None if there is no limit."""
    low = next((m.ge - 1 for m in metadata if isinstance(m, Ge)), None)
    low = next((m.gt for m in metadata if isinstance(m, Gt)), low)
    high = next((m.le + 1 for m in metadata if isinstance(m, Le)), None)
    return low, next((m.lt for m in metadata if isinstance(m, Lt)), high)


def numbers_of(name: str) -> Iterator[tuple[str, type, int, tuple[float | None, float | None]]]:
    """For each numeric setting: name, type, how many numbers (0: any), and a number on either side of the range."""
    for field, info in settings_of(name)[0].model_fields.items():
        kind, metadata = info.annotation, list(info.metadata)
        options = [option for option in get_args(kind) if option is not type(None)]
        if get_origin(kind) not in (tuple, Annotated, dict) and len(options) == 1:  # `int | None`
            kind = options[0]
        count = 1
        if get_origin(kind) is tuple:
            parts = get_args(kind)
            count = 0 if parts[-1] is Ellipsis else len(parts)
            kind = parts[0]
        if get_origin(kind) is Annotated:
            metadata += get_args(kind)[1:]
            metadata += [m for item in metadata for m in getattr(item, "metadata", [])]
            kind = get_args(kind)[0]
        if kind in (int, float):
            yield field, kind, count, bounds_of(metadata)


def generated() -> Iterator[Row]:
    for name in EVERY:
        for field, kind, count, (low, high) in numbers_of(name):
            flag = f"--{field.replace('_', '-')}"
            several = lambda text, count=count: " ".join([text] * max(1, count))
            toml = lambda text, field=field, count=count: {
                "a.toml": f"{field} = {text if count == 1 else '[' + ', '.join([text] * max(1, count)) + ']'}"
            }
            config, where = ("--config", "a.toml"), f"error: --config a.toml: {field}: "
            yield Row(name, (flag, *several("ten").split()), f"error: {flag}: 'ten")
            yield Row(name, (flag, *several("nan").split()), f"error: {flag}: ")
            if name == "plot":
                continue
            yield Row(name, config, where, toml("true"))
            yield Row(name, config, where, toml('"1"'))
            yield Row(name, config, where, toml("{ a = 1 }"))
            yield Row(name, config, where, toml("inf"))
            if kind is int:
                yield Row(name, config, where, toml("2.0"))
            for outside in (low, high):
                if outside is not None:
                    yield Row(name, (flag, *several(str(kind(outside))).split()), f"error: {flag}: ")


GENERATED = list(generated())

# Flags.
FLAGS = [
    *rows(
        ("--config a.toml --config a.toml", "--config: it is given twice; give it once", {"a.toml": ""}),
        ("--seed 1 --seed 2", "--seed: it is given twice"),
        ("--seed=1 --seed 2", "--seed: it is given twice"),
        ("--num-samples 10 --num_samples 20", "--num-samples: it is given twice"),
        ("--readme --no-readme", "--no-readme: it is given twice"),
        ("--params loc=1 --params scale=2", "--params: it is given twice; give it once, with all its values"),
        ("--params loc=1 loc=2", "'loc' is given twice; give it once"),
        ("--params loc=", "'loc=' is not of the form name=value"),
        ("--params =1", "'=1' is not of the form name=value"),
        ("--params loc", "'loc' is not of the form name=value"),
        ("--params loc=1,2,x", "'1,2,x' is not a number or a comma-separated list of numbers"),
        ("--params loc=1,,2", "is not a number or a comma-separated list"),
        ("--params loc=1,", "is not a number or a comma-separated list"),
        ("--params loc=1;2", "is not a number or a comma-separated list"),
        ("--params loc=True", "'True' is not a number"),
        ("--params loc=1j", "'1j' is not a number"),
        ("--params loc=0x10", "'0x10' is not a number"),
        ("--params loc=[", "is not a number"),
        ("--params 'loc=[1,true]'", "is not a number; give finite numbers"),
        ("--params 'loc=[1,\"a\"]'", "is not a number; give finite numbers"),
        ("--params 'loc=[1,null]'", "is not a number; give finite numbers"),
        ("--params 'loc=[1,{\"a\":1}]'", "is not a number; give finite numbers"),
        ("--params 'loc=[1,NaN]'", "is not finite; give finite numbers"),
        ("--params 'loc=[1e999]'", "is not finite; give finite numbers"),
        ("--params loc=[]", "loc = [] is empty; give at least one number"),
        ("--params loc=[[],[]]", "is empty; give at least one number"),
        ("--params loc=[[1,2],[3]]", "is not an array: its parts have different shapes"),
        ("--params loc=[1,[2]]", "is not an array: its parts have different shapes"),
        (("--params", "loc=" + "[" * 1000), "is nested too deeply; give an array of at most 32 axes"),
        (("--params", "loc=" + "[" * 100_000), "is nested too deeply"),
        (("--params", "loc=" + "[" * 33 + "1" + "]" * 33), "loc is nested too deeply"),
        (("--params", "loc=[" + "9" * 400 + "]"), "is not finite"),
        (("--params", "loc=[" + "9" * 5000 + "]"), "is not a number"),
        ("--params loc=1e39", "parameter loc = 1e+39 is too large for float32; give smaller numbers, or use 64 bits"),
        ("--params loc=-inf", "loc = -inf is not finite"),
        ("--seed 1e3", "--seed: '1e3' cannot be parsed"),
        ("--seed ''", "--seed: '' cannot be parsed"),
        (("--seed", "9" * 5000), "--seed: "),
        ("--seed 9223372036854775808", "--seed: input should be less than 9223372036854775808"),
        ("--out ''", "--out: the path is empty"),
        ("--out ~no-such-user-here/x", "there is no such home folder; write the path without ~"),
        (("--out", "a\nb"), "--out: it contains the control character '\\n'; remove it"),
        (("--out", "a\x1b[31mb"), "--out: it contains the control character '\\x1b'"),
        (("--out", "a\0b"), "--out: it contains the control character '\\x00'"),
        (("--out", os.fsdecode(b"a\xff")), "--out: it contains the control character '\\udcff'"),
        (("--out", "x" * 300), "File name too long; give a writable folder"),
        ("--out a.txt", "--out a.txt: this is a file; give a folder", {"a.txt": ""}),
        ("--out a.txt/b", "--out a.txt/b: Not a directory", {"a.txt": ""}),
        ("--out /proc/x", "--out /proc/x: "),
        ("--config ''", "the path is empty"),
        ("--config .", "--config .: Is a directory; give the path of a TOML file"),
        (("--config", "x" * 300), "File name too long; give the path of a TOML file"),
        (("--config", "a\0b"), "--config a\\x00b: not TOML: embedded null"),
        ("--config --seed", "--config --seed: No such file or directory"),
        ("stray", "unknown argument 'stray'; flags start with --"),
        ("--estimators", "--estimators: nothing is given; give at least one"),
        ("--estimators ''", "--estimators : unknown name"),
        ("--estimators jax.numpy:pi", "expected a function (f, q, key, n) -> terms, got float"),
        ("--estimators reparameterized,score_function", "--estimators reparameterized,score_function: unknown name"),
        ("--wrt loc loc", "has a duplicate; give each value once"),
        ("--wrt ''", "unknown parameter ''"),
        ("--float-width 32.0", "--float-width: '32.0' cannot be parsed"),
        ("--platform GPU", "--platform"),
        ("--readme yes", "unknown argument 'yes'"),
        ("--problem ''", "--problem : unknown name"),
        ("--problem :problem", "write module:attribute, or file.py:attribute"),
        ("--problem mine.py:", "write module:attribute, or file.py:attribute"),
        ("--problem .mine:problem", "a module cannot start with a dot"),
        ("--problem 'no module:problem'", "no module 'no module' here or installed"),
        ("--problem os:path", "it has no 'distribution'"),
        ("--problem nowhere/mine.py:problem", "no file nowhere/mine.py"),
        (("--problem", "x" * 300 + ".py:problem"), "File name too long; give the path of a .py file"),
        ("--problem ~no-such-user-here/mine.py:problem", "there is no such home folder"),
        (("--problem", "a\0b.py:problem"), "--problem: it contains the control character '\\x00'"),
        ("--problem folder.py:problem", "no file folder.py", {"folder.py/x": ""}),
    ),
    *rows(
        ("--wait 1e12", "--wait: '1e12' cannot be parsed"),
        ("--wait 1000000000000", "--wait: input should be less than or equal to 604800"),
        ("--devices 1000000", "--devices: input should be less than or equal to 1024"),
        ("--axes loc=1 loc=2", "'loc' is given twice; give it once"),
        ("--axes loc=1 --axes n=2", "--axes: it is given twice"),
        ("--axes", "--axes: nothing is given; give at least one"),
        ("--axes loc", "'loc' is not of the form name=value"),
        ("--axes loc=1:2:3:4", "'loc=1:2:3:4' is not a range"),
        ("--axes =1:2:3", "is not of the form name=value"),
        ("--axes loc=1:2:2.5", "is not a range"),
        ("--axes loc=1:2:1", "points = 1; give an integer from 2"),
        ("--axes loc=1:2:99999999999", "points = 99999999999; give an integer from 2"),
        ("--axes loc=1:nan:5", "loc = nan is not finite"),
        ("--axes loc=-inf:1:5", "loc = -inf is not finite"),
        ("--axes loc=ln:1:2:5", "is not a range"),
        ("--axes loc=1,nan", "loc = [1.0, nan] is not finite"),
        ("--axes loc=[1,true]", "is not a number"),
        ("--axes n=1.5", "--axes: sweep: "),
        ("--axes n=0", "--axes: sweep: "),
        ("--axes n=-3,2", "--axes: sweep: "),
        ("--axes dimension=0 --problem quadratic", "--axes: sweep: "),
        ("--axes loc=1e39", "--axes: sweep: "),
        ("--resume ''", "--resume: the path is empty"),
        ("--resume . --out a", "--resume .: this folder has no sweep"),
        ("--coordinator h:99999 --processes 2 --process 0 --out a", "write HOST:PORT"),
        ("--coordinator h:\uff11 --processes 2 --process 0 --out a", "write HOST:PORT"),
        name="sweep",
    ),
    *rows(
        ("--data a.csv --data b.csv", "--data: it is given twice"),
        ("--synthetic 1 2", "--synthetic"),
        ("--synthetic 1 2 3 4", "--synthetic"),
        ("--synthetic 1 2 1000000000000", "--synthetic: input should be less than or equal to 16777216"),
        ("--synthetic 1 0 10", "all 10 values are 1; there is no spread to fit"),
        ("--synthetic 1 inf 10", "--synthetic: input should be a finite number, not inf"),
        ("--begin 1", "--begin"),
        ("--begin nan 1", "--begin: input should be a finite number, not nan"),
        ("--begin 1 0", "--begin 1 0: expected MU SIGMA, with SIGMA > 0"),
        ("--learning-rate inf", "--learning-rate: input should be a finite number, not inf"),
        ("--learning-rate -1", "--learning-rate: input should be greater than 0"),
        ("--optimizer sgd adam", "unknown argument 'adam'"),
        ("--objectives kl kl", "has a duplicate"),
        ("--problem square --begin 1 1", "--begin: it only applies to a fit to data"),
        name="fit",
    ),
    *rows(
        ("--frequencies 3 1", "--frequencies: 3 1: the first end must be below the second"),
        ("--frequencies 1", "--frequencies"),
        ("--degrees 1.5 3", "--degrees"),
        ("--phis 1 1", "--phis: 1 1: the first end must be below the second"),
        ("--mu nothing", "--mu"),
        ("--sigma linear", "--sigma"),
        ("--mu mine.py:f", "--mu", {"mine.py": "def f(phi): raise SystemExit(0)"}),
        ("--mu mine.py:f", "--mu", {"mine.py": "f = 3"}),
        name="crossover",
    ),
    *rows(
        ("--num-samples 11", "--num-samples"),
        ("--sources post post", "has a duplicate"),
        ("--sources other", "--sources"),
        ("--config a.toml", "--config a.toml: num_samples: expected an integer, not True", {"a.toml": "num_samples = [true]"}),
        ("--config a.toml", "--config a.toml: augmentation: expected an integer, not 1.0", {"a.toml": "augmentation = [1.0]"}),
        name="published",
    ),
    *rows(("--estimators reparameterised", "did you mean 'reparameterized'?"), ("--bits 4.0", "--bits"), name="discrete"),
    *rows(("--k 1 --estimators vimco", "vimco needs another sample"), ("--k 0", "--k"), name="bounds"),
    *rows(
        ("--target nothing", "--target"),
        ("--estimators score_function", "write ESTIMATOR/ENTROPY"),
        ("--estimators score_function/exactly", "write ESTIMATOR/ENTROPY"),
        ("--family-estimators nothing/exact", "--family-estimators"),
        ("--target mine.py:g --dimensions 2", "--target", {"mine.py": "def g(z): return z"}),
        ("--target mine.py:g --dimensions 2", "--target", {"mine.py": "def g(z): return None"}),
        ("--target mine.py:g --dimensions 2", "--target", {"mine.py": "import sys\ndef g(z): sys.exit(0)"}),
        name="elbo",
    ),
    *rows(
        ("--steps 150", "not a multiple of --every 100; give 200"),
        ("--resume nowhere", "this folder has no checkpoint"),
        ("--resume ''", "--resume: the path is empty"),
        ("--estimators nothing", "--estimators nothing: unknown name"),
        ("--resume a", "this folder has no checkpoint", {"a/checkpoints": "a file"}),
        name="vae",
    ),
    *rows(
        ("--read nowhere.json", "--read nowhere.json: No such file or directory"),
        ("--read a.json", "not JSON", {"a.json": "[" * 1000}),
        ("--read a.json", "not JSON", {"a.json": b"\xff"}),
        ("--read a.json", "this is not a result of .ci/gpu", {"a.json": "3"}),
        ("--read a.json", "it has no results of a1 and d1 and d2", {"a.json": '{"kind": "rgrad .ci/gpu", "parts": {}}'}),
        ("--read a.json", "this is not a result of .ci/gpu (AttributeError", {"a.json": '{"kind": "rgrad .ci/gpu", "parts": {"a1": 3}}'}),
        ("--read .", "--read .: Is a directory"),
        ("--read ''", "--read: the path is empty"),
        ("--sections", "--sections: nothing is given"),
        ("--rivals numpy", "--rivals"),
        name="benchmark",
    ),
    *rows(
        ("--budget 1e400", "--budget: input should be a finite number, not inf"),
        ("--budget 1e12", "--budget: input should be less than or equal to 1000000"),
        ("--problem squar", "did you mean 'square'?"),
        ("--cost money", "--cost"),
        (
            "--estimators mine.py:e reparameterized --budget 0.1",
            "SystemExit: 0 (mine.py, line 2) ended the run; remove the call of sys.exit",
            {"mine.py": "import sys\ndef e(f, q, key, n): sys.exit(0)"},
        ),
        name="compare",
    ),
    *rows(("--only no-such-distribution", "--only"), name="distributions"),
    *rows(
        ("--column y", "--column y: --data is missing; give the file too"),
        ("--learning-rates inf", "--learning-rates: input should be a finite number, not inf"),
        ("--families full full", "has a duplicate"),
        ("--held-out 0.0001", "hold out at least one"),
        ("--batch 0", "--batch"),
        ("--batch 100000", "--batch"),
        name="logistic",
    ),
]  # fmt: skip


def toml(*lines: tuple[str | bytes, str]) -> list[Row]:
    return [Row("variance", ("--config", "a.toml"), says, {"a.toml": text}) for text, says in lines]


TOML = [
    *toml(
        ("seed = 1\nseed = 2", "--config a.toml: not TOML: Cannot overwrite a value"),
        ("[params]\nloc = 1\n[params]\nscale = 2", "not TOML: Cannot declare"),
        ("seed = ", "not TOML"),
        ("seed 1", "not TOML"),
        (b"\xff\xfe", "not TOML: 'utf-8' codec can't decode"),
        ("seed = 1\0", "not TOML"),
        ("a = " + "[" * 1000, "not TOML: it is nested too deeply"),
        ("[params]\nloc = " + "[" * 100 + "1" + "]" * 100, "params: loc is nested too deeply"),
        ("seed = " + "9" * 5000, "not TOML: Exceeds the limit"),
        ("sed = 1", "unknown key 'sed'; did you mean 'seed'?"),
        ("num-samples = [10]", "unknown key 'num-samples'; did you mean 'num_samples'?"),
        ('config = "b.toml"', "unknown key 'config'"),
        ("[variance]\nseed = 1", "unknown key 'variance'"),
        ("[seed]\nvalue = 1", "seed: input should be a valid integer, not {'value': 1}"),
        ("seed = 1979-05-27", "seed: input should be a valid integer"),
        ("readme = 1", "readme: input should be a valid boolean, not 1"),
        ('readme = "true"', "readme: input should be a valid boolean, not 'true'"),
        ("out = 3", "out: input should be a valid string, not 3"),
        ('out = ""', "out: the path is empty"),
        ('out = "a\\u0000b"', "out: it contains the control character '\\x00'"),
        ('problem = "square\\n"', "problem: it contains the control character '\\n'"),
        ("problem = 3", "problem: input should be a valid string"),
        ('estimators = "reparameterized"', "estimators: input should be a valid tuple"),
        ("estimators = [1]", "estimators: input should be a valid string, not 1"),
        ("estimators = []", "estimators: nothing is given"),
        ('estimators = [["reparameterized"]]', "estimators: input should be a valid string"),
        ("num_samples = 10", "num_samples: input should be a valid tuple, not 10"),
        ("num_samples = [10, 10]", "num_samples: 10 10 has a duplicate"),
        ("num_samples = [10, 20.0]", "num_samples: input should be a valid integer, not 20.0"),
        ("num_samples = { from = 1 }", "num_samples: input should be a valid tuple"),
        ('platform = "cray"', "platform: input should be 'auto', 'cpu', 'gpu' or 'tpu', not 'cray'"),
        ("params = 3", "params: input should be a valid dictionary, not 3"),
        ("params = [1]", "params: input should be a valid dictionary"),
        ("params = { loc = true }", "params: "),
        ('params = { loc = "1" }', "params: "),
        ("params = { loc = [1, true] }", "params: loc = [1, True] is not a number"),
        ("params = { loc = nan }", "params: loc = nan is not finite"),
        ("params = { loc = [] }", "params: loc = [] is empty"),
        ("params = { loc = [[1], [1, 2]] }", "its parts have different shapes"),
        ("params = { loc = 1979-05-27 }", "params: "),
        ('wrt = "loc"', "wrt: input should be a valid tuple, not 'loc'"),
        ("float_width = 64.0", "float_width: input should be a valid integer, not 64.0"),
    ),
    *(
        Row("sweep", ("--config", "a.toml"), says, {"a.toml": f"[axes]\nloc = {text}"})
        for text, says in (
            ("3", "loc = 3 is not a list; write loc = [3]"),
            ("true", "loc = True is not a list"),
            ("[]", "loc = [] is empty"),
            ("[true]", "is not a number"),
            ('["a"]', "is not a number"),
            ("{ from = 1, to = 2 }", "the range lacks 'points'"),
            ("{ from = 1, to = 2, points = true }", "points = True"),
            ("{ from = 1, to = 2, points = 3.0 }", "points = 3.0"),
            ("{ from = true, to = 2, points = 3 }", "is not a number"),
            ('{ from = "1", to = 2, points = 3 }', "is not a number"),
            ("{ from = [1], to = 2, points = 3 }", "[1] is not an end of a range"),
            ("{ from = 1, to = 2, points = 3, log = 1 }", "log = 1; write true or false"),
            ("{ from = 1, to = 2, points = 3, step = 1 }", "unknown key 'step'"),
        )
    ),
]  # fmt: skip

# Problem files.
PROBLEM = """
import sys
import jax, jax.numpy as jnp, numpyro.distributions as dist
class problem:
    params = {params}
    def distribution(p): {distribution}
    def objective(p, x): {objective}
"""


def problem(
    params: str = '{"loc": 1.0}',
    distribution: str = 'return dist.Normal(p["loc"], 1.0)',
    objective: str = "return x**2",
) -> str:
    return PROBLEM.format(params=params, distribution=distribution, objective=objective)


def in_problem(*lines: tuple[str | bytes, str], flags: tuple[str, ...] = ()) -> list[Row]:
    call = ("--problem", "mine.py:problem", *flags, *QUICK)
    return [Row("variance", call, says, {"mine.py": text}) for text, says in lines]


UNIFORM = 'return dist.Uniform(p["low"], p["high"])'
PROBLEMS = [
    *in_problem(
        ("import sys\nsys.exit()", "the import raised SystemExit (mine.py, line 2)"),
        ("import sys\nsys.exit(0)", "the import raised SystemExit: 0 (mine.py, line 2)"),
        ("raise SystemExit('done')", "the import raised SystemExit: done"),
        ("class Stop(BaseException): pass\nraise Stop", "the import raised Stop (mine.py, line 2)"),
        ("raise ValueError('two\\nlines')", "the import raised ValueError: two lines (mine.py, line 1)"),
        ("1 / 0", "the import raised ZeroDivisionError"),
        ("def f(:", "the import raised SyntaxError"),
        ("x = " + "(" * 1000, "the import raised "),
        (b"x = '\xff'", "the import raised SyntaxError"),
        (b"x = 1\0", "the import raised "),
        ("def f(): f()\nf()", "the import raised RecursionError"),
        ("import no_such_module_here", "the import of 'no_such_module_here' failed; install it"),
        ("", "mine.py has no 'problem'"),
        ("problen = 1", "did you mean 'problen'?"),
        ("problem = 3", "it has no 'distribution'"),
        ("problem = None", "it has no 'distribution'"),
        ("class problem:\n    distribution = objective = params = 1", "parameter params = 1 is an integer"),
        ("class P:\n    distribution = objective = 1\n    @property\n    def params(self): return 1 / 0\nproblem = P()",
         "'params' raised ZeroDivisionError"),
        (problem(params="{}"), "params must contain at least one number or array, got {}"),
        (problem(params='["loc"]'), "parameter 0 must be a number or an array of numbers, got str 'loc'"),
        (problem(params='{1: 2.0, "loc": 1.0}'), "params is not a valid pytree"),
        (problem(params='{"loc": 1 + 2j}'), "parameter loc is complex"),
        (problem(params='{"loc": jnp.array([1 + 2j])}'), "parameter loc is complex"),
        (problem(params='{"loc": "1"}'), "parameter loc must be a number or an array of numbers, got str '1'"),
        (problem(params='{"loc": None}'), "parameter loc is None; give a number or an array"),
        (problem(params='{"loc": True}'), "parameter loc must be a number or an array of numbers, got bool True"),
        (problem(params='{"loc": float("nan")}'), "parameter loc = nan is not finite"),
        (problem(params='{"loc": float("inf")}'), "parameter loc = inf is not finite"),
        (problem(params='{"loc": []}'), "parameter loc is an empty array"),
        (problem(params='{"loc": jnp.zeros((0, 3))}'), "parameter loc is an empty array"),
        (problem(params='{"loc": [[1.0], [1.0, 2.0]]}'), "error: --problem mine.py:problem: "),
        (problem(params='{"loc": 1e300}'), "is too large for float32"),
        (problem(params='{"loc": 3 * 10**9}'), "is too large for int32"),
        (problem(params='{"loc": 10**400}'), "parameter loc = 1"),
        (problem(params='{"loc": print}'), "got builtin_function_or_method"),
        (problem(params='{"loc": 1}'), "is an integer and has no derivative"),
        (problem(distribution="return None"), "q must be a distribution, got NoneType"),
        (problem(distribution="pass"), "q must be a distribution, got NoneType"),
        (problem(distribution="return 3.0"), "q must be a distribution, got float"),
        (problem(distribution="return dist.Normal"), "Normal is a class; give it its parameters"),
        (problem(distribution="return 1 / 0"), "ZeroDivisionError"),
        (problem(distribution="sys.exit(0)"), "SystemExit: 0 (mine.py, line 6)"),
        (problem(distribution='return dist.Normal(p["lok"], 1.0)'), "KeyError: 'lok' (mine.py, line 6)"),
        (problem(distribution='return dist.Normal(p["loc"] * jnp.ones(3), 1.0)'), ".to_event(1)"),
        (problem(distribution='return dist.Normal(p["loc"], -1.0)'), "Normal got scale = -1.0, which is not allowed"),
        (problem(distribution='return dist.Normal(p["loc"], jnp.nan)'), "which is not allowed"),
        (problem(distribution="return dist.Uniform(3.0, 1.0)"), "it goes from 3 to 1; give the smaller end first"),
        (problem(objective="return None"), "f must return a scalar for one sample, got NoneType"),
        (problem(objective="pass"), "f must return a scalar for one sample, got NoneType"),
        (problem(objective="return jnp.ones(3)"), "must return a scalar for one sample, got shape (3,)"),
        (problem(objective="return (x, x)"), "must return a scalar for one sample, got tuple"),
        (problem(objective="return 'x'"), "error: --problem mine.py:problem ("),
        (problem(objective="return x + 1j"), "must return a real number, got complex64; return its real part"),
        (problem(objective="return jnp.log(-x**2)"), "objective is nan or infinite for 10,000 of 10,000 draws"),
        (problem(objective="return 1.0 if x > 0 else 0.0"), "TracerBoolConversionError"),
        (problem(objective="return float(x)"), "ConcretizationTypeError"),
        (problem(objective="sys.exit(7)"), "SystemExit: 7 (mine.py, line 7)"),
        (problem(objective="return jnp.sqrt(jnp.maximum(x, 0.0))"), "its gradient for loc was nan or infinite in "),
        (problem(objective="raise KeyError('a')"), "KeyError: 'a' (mine.py, line 7)"),
    ),
    *in_problem(
        (problem(params='{"low": 3.0, "high": 1.0}', distribution=UNIFORM), "the support of Uniform is empty: it goes from 3 to 1"),
        (problem(params='{"low": 1.0, "high": 1.0}', distribution=UNIFORM), "it goes from 1 to 1"),
        (problem(params='{"low": [1.0, 5.0], "high": 3.0}', distribution=f"{UNIFORM}.to_event(1)"), "it goes from 5 to 3"),
        (problem(params='{"low": 3.0, "high": 1.0}', distribution='return dist.TruncatedNormal(0.0, 1.0, low=p["low"], high=p["high"])'),
         "it goes from 3 to 1"),
    ),
    *in_problem((problem(params='{"low": 3, "high": 1, "a": 1.0}', distribution='return dist.DiscreteUniform(p["low"], p["high"])'),
         "it goes from 3 to 1"), flags=("--wrt", "a")),
    *in_problem((problem(), "unknown parameter 'scale'; this problem has loc"), flags=("--params", "scale=1")),
    *in_problem((problem(params='{"low": 0.0, "high": 1.0}', distribution=UNIFORM), "it goes from 3 to 1"), flags=("--params", "low=3")),
    *in_problem((problem(params='{"n": 2, "loc": 1.0}'), "parameter n = 1.5 must be an integer"), flags=("--params", "n=1.5")),
    *in_problem((problem(params='{"n": 2, "loc": 1.0}'), "is too large for int32"), flags=("--params", "n=3e9")),
    *(
        Row(name, ("--problem", "mine.py:problem", *more), "SystemExit: 0", {"mine.py": problem(objective="sys.exit(0)")})
        for name, more in (("compare", ()), ("fit", ()), ("sweep", ("--axes", "loc=1,2")))
    ),
    *(
        Row(name, ("--estimators", f"mine.py:e{end}", *more), says, {"mine.py": f"import sys\ndef e(f, q, key, n): {body}"})
        for name, end, more in (("variance", "", ()), ("fit", "", ("--objectives", "kl")), ("elbo", "/sampled", ("--dimensions", "1")))
        for body, says in (("sys.exit(0)", "SystemExit: 0"), ("return None", "error: mine.py:e" if name != "elbo" else "error: --est"))
    ),
]  # fmt: skip


# Data files.
def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    return buffer.getvalue()


class Unpickled:
    """Creates a file if it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


def huge_header() -> bytes:
    """An .npy file that claims to hold 10^15 numbers."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"


def data(*lines: tuple[str, str | bytes, str], flags: tuple[str, ...] = ()) -> list[Row]:
    return [Row("fit", ("--data", name, *flags), says, {name: content}) for name, content, says in lines]


DATA = [
    *data(
        ("a.csv", "", "it is empty; give a .csv file with data"),
        ("a.csv", "\n \n", "it is empty"),
        ("a.csv", "x\n", "0 values; give at least two"),
        ("a.csv", "x\n1\n", "1 value; give at least two"),
        ("a.csv", "x\n1\n1\n", "all 2 values are 1"),
        ("a.csv", "x\n1\n\n2\n", "line 3 is blank; remove it"),
        ("a.csv", "x\n1,5\n2,5\n", "line 2 has 2 cells, not 1; fix it; write numbers with a decimal point"),
        ("a.csv", 'x\n"1,5"\n"2,5"\n', "not a number in rows 1, 2 (e.g. '1,5'); fix or remove them; write numbers with a decimal point"),
        ("a.csv", "x\n1\n2\nthree\n", "not a number in row 3 (e.g. 'three')"),
        ("a.csv", "x\n1\n\"2\n\"\n3\n4\n\"5\n", "unexpected end of data"),
        ("a.csv", 'x\n1\n"2"3\n', "line 3: "),
        ("a.csv", 'x\n"1\n2"\n3\n', "not a number in row 1 (e.g. '1\\n2')"),
        ("a.csv", "x\n1\f2\n3\n", "not a number in row 1"),
        ("a.csv", "x\n1\n1e999\n", "nan or infinite in row 2"),
        ("a.csv", "x\n1\n-inf\n", "nan or infinite in row 2"),
        ("a.csv", "x\n1\nNaN\n", "nan or infinite in row 2"),
        ("a.csv", "x\n1\nNA\n", "not a number in row 2 (e.g. 'NA')"),
        ("a.csv", "x\n1\n1_000\n", "not a number in row 2"),
        ("a.csv", "x\n1\n0x10\n", "not a number in row 2"),
        ("a.csv", "x\n1\n\uff11\uff12\n", "not a number in row 2"),
        ("a.csv", "x\n1\n1 000\n", "not a number in row 2"),
        ("a.csv", "x\n1\n€2\n", "not a number in row 2"),
        ("a.csv", "x\n1\n50%\n", "not a number in row 2"),
        ("a.csv", "x\n1\nTrue\n", "not a number in row 2"),
        ("a.csv", "x\n1\n" + "y" * 1000 + "\n", "not a number in row 2"),
        ("a.csv", "x\n1\n" + "y" * 200_000 + "\n", "field larger than field limit"),
        ("a.csv", "x\n1\n2\0\n", "it has a null byte, so it is not text"),
        ("a.csv", b"x\n\xe9\n", "give a .csv file in UTF-8"),
        ("a.csv", "x\n1\n2\n".encode("utf-16"), "give a .csv file in UTF-8"),
        ("a.csv", "x,x\n1,2\n3,4\n", "two columns are named 'x'; rename one of them"),
        ("a.csv", "x,y\n1,2\n3,4\n", "it has 2 columns; choose one with --column (there are: x, y)"),
        ("a.csv", "x,y\n1,2\n3\n", "line 3 has 1 cell, not 2; fix it"),
        ("a.csv", "x,y\n1,2\n3,4,5\n", "line 3 has 3 cells, not 2; fix it"),
        ("a.csv", "x\n1,\n2,\n", "line 2 has 2 cells, not 1; fix it"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\xff\xff", "give a .csv file in UTF-8"),
        ("a.xlsx", b"PK\x03\x04\x14\x00\x08\x00", "it has a null byte, so it is not text"),
        ("a.NPY", npy(np.ones(3)), "give a .csv file in UTF-8"),
        ("a.npy", b"", "cannot read it"),
        ("a.npy", "x\n1\n2\n", "cannot read it"),
        ("a.npy", npy(np.arange(9.0))[:-8], "cannot read it"),
        ("a.npy", npy(np.arange(9.0))[:40], "cannot read it"),
        ("a.npy", npy(np.array([Unpickled(), None]), allow_pickle=True), "cannot read it: Object arrays cannot be loaded"),
        ("a.npy", huge_header(), "cannot read it"),
        ("a.npy", npz(), "this is an .npz archive; give a .csv or .npy file"),
        ("a.npy", npy(np.ones(())), "expected real numbers in an array with one or two axes, got float64 of shape ()"),
        ("a.npy", npy(np.ones((2, 2, 2))), "got float64 of shape (2, 2, 2)"),
        ("a.npy", npy(np.ones(0)), "got float64 of shape (0,)"),
        ("a.npy", npy(np.ones(3, complex)), "got complex128 of shape (3,)"),
        ("a.npy", npy(np.array([True, False])), "got bool of shape (2,)"),
        ("a.npy", npy(np.array(["1", "2"])), "got <U1 of shape (2,)"),
        ("a.npy", npy(np.array(["2020-01-01"], "datetime64[D]")), "got datetime64[D] of shape (1,)"),
        ("a.npy", npy(np.array([(1.0, "a"), (2.0, "b")], [("x", float), ("y", "U1")])), "of shape (2,)"),
        ("a.npy", npy(np.ones((3, 2))), "it has 2 columns; choose one with --column (there are: 0, 1)"),
        ("a.npy", npy(np.array([1.0, np.nan])), "nan or infinite in row 2"),
        ("folder.npy/x", "", "folder.npy/x: it is empty"),
    ),
    *data(("a.csv", "x;y\n1,5;2\n2,5;3\n", "(e.g. '1,5'); fix or remove them; write numbers with a decimal point"), flags=("--column", "x")),
    *data(("a.csv", "x,y\n1,\n2,3\n", "not a number in row 1 (e.g. '')"), flags=("--column", "y")),
    *data(("a.csv", "x,y\n1,2\n2,3\n", "--column X: a.csv has no such column (there are: x, y)"), flags=("--column", "X")),
    *data(("a.csv", "x,y\n1,2\n2,3\n", "--column 0: a.csv has no such column"), flags=("--column", "0")),
    *data(("a.npy", npy(np.ones((3, 2))), "--column -1: a.npy has no such column"), flags=("--column=-1",)),
    *rows(
        ("--data no.csv", "--data no.csv: no such file or directory"),
        ("--data no.npy", "--data no.npy: No such file or directory"),
        ("--data .", "--data .: is a directory"),
        ("--data folder.npy", "--data folder.npy: Is a directory", {"folder.npy/x": ""}),
        ("--data ''", "--data: the path is empty"),
        ("--data a.csv/b.csv", "--data a.csv/b.csv: not a directory", {"a.csv": ""}),
        ("--data ~no-such-user-here/a.csv", "there is no such home folder"),
        (("--data", "x" * 300), "file name too long"),
        (("--data", "x" * 300 + ".npy"), "File name too long"),
        (("--data", "a\0.csv"), "--data: it contains the control character '\\x00'"),
        name="fit",
    ),
    *(
        Row("logistic", ("--data", "a.csv", "--column", "y"), says, {"a.csv": text})
        for text, says in (
            ("", "it is empty"),
            ("1,2\n3,4\n", "expected a line of names"),
            ("x,y\n1,0\n", "at least two columns and two rows"),
            ("x,z\n1,0\n2,1\n", "a.csv has no column 'y'"),
            ("x,y\n1,0\n2,1\n3,2\n", "--column y: it has 3 different values"),
            ("x,y\n1,0\na,1\n", "could not convert string to float: 'a'"),
            ("x,y\n1,0\ninf,1\n", "row 2, column 'x' is inf; remove the row"),
            ("x,y\n1,0\n1,1\n1,0\n1,1\n1,0\n1,1\n", "column 'x' has one value"),
        )
    ),
]  # fmt: skip


# Folders of results.
def plan(**changes: Any) -> str:
    """The plan.json of a sweep with the given settings, and with the right checksum."""
    whole = {"config": {}, "origin": {}, "replicates": [10], "extents": [[1, 1, 1]]} | changes
    seal = hashlib.sha256(json.dumps(list(whole.values()), sort_keys=True).encode()).hexdigest()
    return json.dumps(whole | {"seal": seal})


EVIL = "from pathlib import Path\nPath('imported').touch()\n"
RESUME = [
    *rows(
        ("--resume a", "cannot read plan.json", {"a/plan.json": "["}),
        ("--resume a", "cannot read plan.json", {"a/plan.json": "[" * 1000}),
        ("--resume a", "cannot read plan.json", {"a/plan.json": "[]"}),
        ("--resume a", "cannot read plan.json", {"a/plan.json": b"\xff"}),
        ("--resume a", "cannot read plan.json (Is a directory)", {"a/plan.json/x": ""}),
        ("--resume a", "its checksum differs", {"a/plan.json": plan().replace("10", "11")}),
        ("--resume a", "cannot read plan.json (it lacks", {"a/plan.json": plan(replicates=[])}),
        ("--resume a", "cannot read plan.json", {"a/plan.json": plan(config=[])}),
        ("--resume a", "--resume a: nothing: unknown key", {"a/plan.json": plan(config={"nothing": 1})}),
        ("--resume a", "--resume a: seed: input should be a valid integer", {"a/plan.json": plan(config={"seed": "3"})}),
        ("--resume a", "this folder has no sweep", {"a/table.csv": ""}),
        ("--resume a", "Not a directory", {"a": ""}),
        ("--resume a", "its plan names code to import: a/evil.py:problem; if you trust it, repeat --problem a/evil.py:problem",
         {"a/plan.json": plan(config={"problem": "a/evil.py:problem"}), "a/evil.py": EVIL}),
        ("--resume a", "its plan names code to import: evil:problem",
         {"a/plan.json": plan(config={"problem": "evil:problem"}), "evil.py": EVIL}),
        ("--resume a", "if you trust it, repeat --estimators score_function evil:f",
         {"a/plan.json": plan(config={"estimators": ["score_function", "evil:f"]}), "evil.py": EVIL}),
        ("--resume a --problem square", "repeat --estimators evil:f",
         {"a/plan.json": plan(config={"problem": "evil:p", "estimators": ["evil:f"]}), "evil.py": EVIL}),
        name="sweep",
    ),
]  # fmt: skip

# Plots.
TABLE = "estimator,loc,scale,n,variance,empty\n" + "".join(
    f"{e},{loc},{scale},10,{1 + loc * loc * scale},\n" for e in ("a", "b") for loc in (-1, 0, 1) for scale in (1, 2)
)


def plots(*lines: tuple[Any, ...], table: str | bytes = TABLE) -> list[Row]:
    return [Row("plot", ("r", *shlex.split(flags)), says, {"r/table.csv": table}) for flags, says in lines]


PLOTS = [
    *plots(
        ("", "DIR and --x are required"),
        ("--x lok", "--x lok: r/table.csv has no such column; did you mean 'loc'?"),
        ("--x loc --y nothing", "--y nothing: "),
        ("--x loc --hue nothing", "--hue nothing: "),
        ("--x loc --heat nothing", "--heat nothing: "),
        ("--x loc --where nothing=1", "--where nothing: "),
        ("--x loc --where n=10 n=20", "'n' is given twice; give it once"),
        ("--x loc --where n=", "'n=' is not of the form name=value"),
        ("--x loc --where n=20", "--where n=20: no row has this value; give one of 10"),
        ("--x loc", "there are several rows for loc = -1.0, by scale (1.0, 2.0)"),
        ("--x loc --hue estimator --y estimator --where scale=1", "--y estimator: the column holds text, e.g. 'a'"),
        ("--x loc --hue estimator --y empty --where scale=1", "--y empty: the column holds no number in these rows"),
        ("--x empty --where estimator=a scale=1 loc=0", "--x empty: the column holds no number in these rows"),
        ("--x loc --hue estimator --where scale=1 --x-scale log", "--x loc: the smallest value is -1, and a logarithmic scale needs values above 0"),
        ("--x loc --hue estimator --y loc --where scale=1 --y-scale log", "--y loc: the smallest value is -1"),
        ("--x estimator --where scale=1 loc=1 --x-scale log", "--x estimator: the column holds text"),
        ("--x loc --y scale --heat variance", "there are several rows for loc = -1.0, by estimator"),
        ("--x loc --y scale --heat empty --where estimator=a", "--heat empty: the column holds no number in these rows"),
        ("--x estimator --y scale --heat variance --where loc=1", "--x estimator: the column holds text"),
        ("--x loc --y estimator --heat variance --where scale=1", "--y estimator: the column holds text"),
        ("--x loc --y scale --heat estimator", "--heat estimator: the column holds text"),
        ("--x loc --y empty --heat variance --where scale=1 estimator=a", "--y empty: the column holds no number"),
        ("--x loc --x-scale LOG", "--x-scale"),
        ("--x loc --out ''", "--out: the path is empty"),
        ("--x loc more", "unknown argument 'more'"),
        ("--x ''", "DIR and --x are required"),
    ),
    *plots(("--x loc", "r/table.csv: it is empty"), table=""),
    *plots(("--x loc", "r/table.csv: it has no rows"), ("--x loc --where n=1", "it has no rows"), table="loc,n,variance\n"),
    *plots(("--x loc", "line 2 does not have 2 cells; fix it"), table="loc,variance\n1\n"),
    *plots(("--x loc", "line 2 does not have 2 cells; fix it"), table="loc,variance\n1,2,3\n"),
    *plots(("--x loc", "two columns have the same name"), table="loc,loc,variance\n1,2,3\n"),
    *plots(("--x loc", "cannot read it"), table=b"loc,variance\n1,\xff\n"),
    *plots(("--x loc", "--x loc: the column has empty cells"), table="loc,variance\n1,2\n,3\n"),
    *plots(("--x loc", "--x loc: the column holds text, e.g. 'a'"), table="loc,variance\n1,2\na,3\n"),
    *plots(("--x loc", "--y variance: the column holds no number"), table="loc,variance\n1,nan\n2,inf\n"),
    *plots(("--x a/b", "a column name with / cannot be part of a file name"), table="a/b,variance\n1,2\n"),
    *rows(
        ("nowhere --x loc", "nowhere: it has no table.csv"),
        ("r --x loc", "r: it has no table.csv", {"r/other.csv": ""}),
        ("r --x loc", "r/table.csv: cannot read it (Is a directory)", {"r/table.csv/x": ""}),
        ("r.csv --x loc", "r.csv/table.csv: cannot read it (Not a directory)", {"r.csv": TABLE}),
        ("'' --x loc", "DIR and --x are required"),
        (("x" * 300, "--x", "loc"), "cannot read it (File name too long)"),
        name="plot",
    ),
]  # fmt: skip

TABLES = {"generated": GENERATED, "flags": FLAGS, "toml": TOML, "problems": PROBLEMS, "data": DATA, "resume": RESUME, "plots": PLOTS}  # fmt: skip


@dataclasses.dataclass
class Ran:
    status: Any
    out: str
    err: str
    left: set[str]
    """The files and folders that are new or have changed."""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a row as the command line does: through `runner.command`, with its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "watch_interrupts", lambda: None)
    monkeypatch.setattr(runner.tempfile, "tempdir", str(tmp_path))  # so that the report of a bug is seen
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def call(row: Row) -> Ran:
        write_files(row.files)
        named = any(flag.partition("=")[0] in ("--out", "--resume") for flag in row.flags)
        out = () if named or row.name == "plot" else ("--out", "new/deep")
        monkeypatch.setattr(sys, "argv", [row.name, *row.flags, *out])
        before = contents(tmp_path)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", kind)  # which Python does not show
            with pytest.raises(SystemExit) as stop:
                runner.command(*settings_of(row.name))
        shown = capfd.readouterr()
        left = {path for path, content in contents(tmp_path).items() if before.get(path) != content}
        return Ran(stop.value.code, shown.out, "".join(f"{w.message}\n" for w in warned) + shown.err, left)

    return call


def write_files(files: Mapping[str, str | bytes]) -> None:
    for place, content in files.items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(content if isinstance(content, bytes) else content.encode())


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


PARAMS = [
    pytest.param(
        row, id=f"{name}-{i}-{row.name} {' '.join(row.flags)[:60]}".encode("ascii", "backslashreplace").decode()
    )
    for name, table in TABLES.items()
    for i, row in enumerate(table)
]


@pytest.mark.parametrize("row", PARAMS)
def test_bad_input_is_one_line_and_leaves_nothing(row, run):
    ran = run(row)
    assert (ran.status, ran.out, ran.left) == (2, "", set()), ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("error: ")
    assert ran.err[:-1].isprintable()
    assert "Traceback" not in ran.err
    assert len(ran.err) < 1200
    assert row.says in ran.err


def test_the_table_is_long_and_covers_every_number_of_every_experiment():
    by_hand = sum(len(table) for name, table in TABLES.items() if name != "generated")
    assert by_hand >= 300
    assert len(GENERATED) >= 300
    assert {row.name for table in TABLES.values() for row in table} == set(EVERY)


# The value that is read.
READ = [
    ("variance", "--seed 1_000", {}, "seed", 1000),
    ("variance", "--params loc=1e-3", {}, "params", {"loc": 0.001}),
    ("variance", "--params loc=-.5", {}, "params", {"loc": -0.5}),
    ("variance", "--params loc=1", {}, "params", {"loc": 1.0}),
    ("variance", "--params 'loc=1, 2'", {}, "params", {"loc": [1.0, 2.0]}),
    ("variance", "--params 'loc=[[1, 2], [3, 4]]' scale=2", {}, "params", {"loc": [[1, 2], [3, 4]], "scale": 2.0}),
    ("variance", "--num-samples 20 10", {}, "num_samples", (20, 10)),
    ("variance", "--num_samples 20", {}, "num_samples", (20,)),
    ("variance", "--out=a=b", {}, "out", "a=b"),
    ("variance", "--out ~/a", {}, "out", "HOME/a"),
    ("variance", "--out 'a b'", {}, "out", "a b"),
    ("variance", "--out ünï", {}, "out", "ünï"),
    ("variance", "--config a.toml", {"a.toml": "\ufeffseed = 7"}, "seed", 7),
    ("variance", "--config ~/a.toml", {"a.toml": "seed = 7\r\n"}, "seed", 7),
    ("variance", "--config a.toml --seed 8", {"a.toml": "seed = 7"}, "seed", 8),
    ("variance", "--config a.toml", {"a.toml": "params = { loc = 3 }"}, "params", {"loc": 3.0}),
    ("variance", "--config a.toml", {"a.toml": "num_samples = [1, 0x10]"}, "num_samples", (1, 16)),
    ("variance", "--config a.toml", {"a.toml": "seed = 9223372036854775807"}, "seed", 2**63 - 1),
    ("variance", "--config a.toml", {"a.toml": "readme = true"}, "readme", True),
    ("compare", "--config a.toml", {"a.toml": "budget = 3"}, "budget", 3.0),
    ("compare", "--budget 1e3", {}, "budget", 1000.0),
    ("fit", "--synthetic 3 2.5 100", {}, "synthetic", (3.0, 2.5, 100)),
    ("fit", "--begin -1 2", {}, "begin", (-1.0, 2.0)),
    ("fit", "--data ~/a.csv", {}, "data", "HOME/a.csv"),
    ("fit", "--no-decay", {}, "decay", False),
    ("sweep", "--axes loc=1", {}, "axes", {"loc": [1.0]}),
    ("sweep", "--axes loc=-1:1:3 n=1,2", {}, "axes", {"loc": {"from": -1.0, "to": 1.0, "points": 3}, "n": [1.0, 2.0]}),
    ("sweep", "--resume a --replicates 20", {"a/plan.json": plan(config={"seed": 3})}, "seed", 3),
    ("sweep", "--resume a --problem b.py:p", {"a/plan.json": plan(config={"problem": "b.py:p", "wrt": ["x"]})}, "wrt", ("x",)),
    ("published", "--config a.toml", {"a.toml": "augmentation = [0, 3]"}, "augmentation", (0, 3)),
    ("plot", "~/r --x loc", {}, "folder", "HOME/r"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "flags", "files", "field", "value"), READ)
def test_the_setting_that_is_read(name, flags, files, field, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(files)
    found = getattr(parse(settings_of(name)[0], shlex.split(flags), name), field)
    wanted = value.replace("HOME", str(tmp_path)) if isinstance(value, str) else value
    assert found == wanted
    assert type(found) is type(wanted)


COLUMNS = [
    ("a.csv", "x\n1\n2\n", None, [1, 2]),
    ("a.csv", "1\n2\n", None, [1, 2]),
    ("a.csv", "\ufeffx,y\r\n1,2\r\n3,4\r\n", "x", [1, 3]),
    ("a.csv", "x;y\n1;2\n3;4\n", "y", [2, 4]),
    ("a.csv", "x\ty\n1\t2\n3\t4", "y", [2, 4]),
    ("a.csv", '"a, b",y\n" 1 ","2"\n3,4\n', "a, b", [1, 3]),
    ("a.csv", "x,y,\n1,2,\n3,4,\n", "y", [2, 4]),
    ("a.csv", "1,2\n3,4\n", "1", [2, 4]),
    ("a.csv", "x,y\n1,\n2,words\n", "x", [1, 2]),
    ("a.txt", "x\n-1e-3\n+.5\n", None, [-0.001, 0.5]),
    ("a.csv", "x\n1\r2\r", None, [1, 2]),
    ("a.npy", npy(np.arange(3, dtype=np.int8)), None, [0, 1, 2]),
    ("a.npy", npy(np.arange(6, dtype=">f4").reshape(3, 2).T), "2", [4, 5]),
    ("a.npy", npy(np.array([(1.0, 2), (3.0, 5)], [("x", float), ("y", int)])), "y", [2, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "column", "values"), COLUMNS)
def test_the_column_that_is_read(name, content, column, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files({name: content})
    assert load_data(name, column, None, False, 0).x.tolist() == values


DRAWN = [
    *plots(
        ("--x loc --hue estimator --where scale=1", "variance-over-loc"),
        ("--x estimator --where scale=1 loc=1", "variance-over-estimator"),  # words along an axis
        ("--x n --where scale=1 loc=1 estimator=a --x-scale log --y-scale log", "variance-over-n"),  # one point
        ("--x loc --y scale --heat variance --hue estimator", "variance-over-loc-scale"),
        ("--x n --y scale --heat n --where estimator=a loc=1", "n-over-n-scale"),  # all colours equal
    ),
    *plots(("--x loc --y-scale log", "variance-over-loc"), table="loc,variance\n1,5\n2,5\n3,5\n"),
    *plots(("--x loc --y scale --heat variance", "variance-over-loc-scale"), table="loc,scale,variance\n1,1,0\n2,2,0\n"),
    *plots(("--x loc", "variance-over-loc"), table="loc,variance\n1,5\n2,nan\n3,inf\n4,\n"),
    *plots(("--x $a^ --y $_{b", "$_{b-over-$a^"), table="$a^,$_{b\n1,5\n2,6\n"),
]  # fmt: skip


@pytest.mark.parametrize("row", DRAWN)
def test_the_plot_that_is_drawn(row, run):
    ran = run(row)
    assert (ran.status, ran.err) == (0, "")
    assert ran.left == {f"r/{row.says}.png", f"r/{row.says}.svg"}


def test_something_else_in_the_place_of_our_files(tmp_path, capsys):
    """A folder in place of the lock, and a checkpoint with the right checksum that holds something else."""
    (tmp_path / ".lock-0").mkdir()
    with pytest.raises(UsageError, match=r"cannot open \.lock-0: Is a directory; remove it"), share_locked(tmp_path, 0):
        pass
    (tmp_path / "checkpoints").mkdir()
    for content in (b"PK\x03\x04", npz(), npy(np.array([Unpickled()]), allow_pickle=True)):
        place = tmp_path / "checkpoints" / "7.checkpoint"
        place.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        assert latest(tmp_path, VaeSettings()) is None
        assert "the checkpoint of step 7 is damaged" in capsys.readouterr().out


def test_a_call_of_sys_exit_in_the_middle_of_a_run(run, monkeypatch):
    monkeypatch.setattr("experiments.variance.experiment.to_rows", lambda *args: sys.exit(0))
    ran = run(Row("variance", QUICK, ""))
    assert (ran.status, ran.out, ran.left) == (2, "", set())
    assert ran.err == "error: your code called sys.exit(0); remove that\n"


def test_a_bug_is_one_line_and_a_report(run, monkeypatch):
    """An error of ours, e.g. a KeyError, gives exit status 70 and names the file with the traceback."""
    monkeypatch.setattr("experiments.variance.experiment.prepare", lambda *args: {}["planted"])
    ran = run(Row("variance", (), ""))
    assert (ran.status, ran.out, ran.err.count("\n")) == (70, "", 1)
    (report,) = ran.left
    assert report.startswith("rgrad-bug-")
    assert report in ran.err
    assert "KeyError: 'planted'" in Path(report).read_text()


# In a separate process: environment variables that jax and Matplotlib read when they are imported, and sys.exit.
ENVIRONMENT = [
    ({"JAX_PLATFORMS": "cuda"}, "variance", "error: JAX_PLATFORMS=cuda: "),
    ({"JAX_PLATFORMS": "nonsense"}, "sweep", "error: JAX_PLATFORMS=nonsense: "),
    ({"JAX_ENABLE_X64": "maybe"}, "variance", "error: JAX_ENABLE_X64=maybe: "),
    ({"MPLBACKEND": "nonsense"}, "variance", "error: MPLBACKEND=nonsense: "),
    ({}, "variance --problem mine.py:problem", "the import raised SystemExit: 0 (mine.py, line 1)"),
]


@pytest.mark.parametrize(("variables", "command", "says"), ENVIRONMENT)
def test_the_environment(variables, command, says, tmp_path):
    if variables.get("JAX_PLATFORMS") == "cuda" and jax.default_backend() != "cpu":
        pytest.skip("there is a GPU")
    (tmp_path / "mine.py").write_text("raise SystemExit(0)")
    name, *flags = command.split()
    others = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    ran = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *flags, "--out", "new"],
        env=others | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1), ran.stderr
    assert says in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
