"""What `pip install` brings: the files of the wheel, its dependencies, its types, and what a user's folder sees of it."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import rgrad
from experiments.common.requirements import PACKAGES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
OPTIONAL = {"pandas"}  # imported by the method that needs it

USER = """
from collections.abc import Callable
from functools import partial
from typing import assert_type

import jax
import numpyro.distributions as dist  # type: ignore[import-untyped, unused-ignore]
import rgrad
from jax.typing import ArrayLike

assert_type(rgrad.__version__, str)


def loss(theta: jax.Array, key: jax.Array, estimator: rgrad.Estimator = rgrad.score_function) -> jax.Array:
    q = dist.Normal(theta, 1.0)
    return rgrad.expect(lambda x: x**2, q, key, n=100, estimator=estimator)


def with_aux(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    def f(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return x**2, {"x": x}

    return rgrad.expect(f, dist.Normal(theta, 1.0), key, has_aux=True)


def mine(f: Callable[..., ArrayLike], q: rgrad.Distribution, key: jax.Array, n: int, /) -> jax.Array:
    return rgrad.score_function(f, q, key, n, baseline=rgrad.leave_one_out)


class Square:
    params = {"loc": 2.0}

    def distribution(self, params: dict[str, float]) -> rgrad.Distribution:
        q: rgrad.Distribution = dist.Normal(params["loc"], 1.0)
        return q

    def objective(self, params: dict[str, float], x: jax.Array) -> jax.Array:
        return x**2


def draw(key: jax.Array) -> jax.Array:
    gradient: jax.Array = jax.grad(loss)(jax.numpy.array(2.0), key)
    return gradient


key = jax.random.key(0)
assert_type(rgrad.expect(lambda x: x, dist.Normal(0.0, 1.0), key), jax.Array)
assert_type(rgrad.measure(draw, key, 1_000), rgrad.Moments)
assert_type(rgrad.audit(loss, jax.numpy.array(2.0), key), rgrad.Audit)
assert_type(rgrad.compare(Square(), [mine, "score_function"], key=key), rgrad.Comparison)
loss(jax.numpy.array(2.0), key, partial(rgrad.score_function, baseline=rgrad.leave_one_out))
rgrad.expect(3, dist.Normal(0.0, 1.0), key)  # wrong: f is not callable
rgrad.reparametrized  # wrong: misspelt
"""
WRONG = {i: line for i, line in enumerate(USER.splitlines(), 1) if "# wrong" in line}
LIFE = """
import importlib.metadata, sys
from pathlib import Path
import experiments.mine
assert list(experiments.__path__) == [str(Path("experiments").resolve())], list(experiments.__path__)
assert not [name for name in sys.modules if name.startswith("rgrad")]

import jax, numpyro.distributions as dist, rgrad
assert "site-packages" in rgrad.__file__ and rgrad.__version__ == importlib.metadata.version("rgrad")

class problem:
    params = {"loc": 2.0}
    def distribution(params): return dist.Normal(params["loc"], 1.0)
    def objective(params, x): return x**2

print(rgrad.compare(problem, key=jax.random.key(0), n=10, budget=2.0))
def loss(theta, key):
    return rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, n=100, estimator=rgrad.score_function)
print(rgrad.audit(loss, 2.0, jax.random.key(1)))
missing = {"matplotlib", "sklearn", "rich", "tyro", "pydantic"} & set(sys.modules)
assert not missing, missing
"""
WRONG_LOSS = """
import jax

start = 0.4


def loss(p, key):  # a bit with probability p
    return (jnp.where(jax.random.uniform(key) < p, 1.0, 0.0) - 0.3) ** 2
"""


def names_of(requirements):
    return {re.split(r"[\[><=;@ ]", text)[0] for text in requirements}


def imported(package):
    """The top-level modules that a package imports, outside the standard library."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, in which setuptools may write."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("rgrad", "experiments", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    # Without isolation, no network is needed. The dev extra has a setuptools that can do it.
    recent = int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    options = ["--no-build-isolation"] if recent else []
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", *options, "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_the_wheel_holds_rgrad_only(wheel, unpacked):
    version = rgrad.__version__
    assert wheel.name == f"rgrad-{version}-py3-none-any.whl"
    assert {path.name for path in unpacked.iterdir()} == {"rgrad", f"rgrad-{version}.dist-info"}
    inside = {path.relative_to(unpacked).as_posix() for path in (unpacked / "rgrad").rglob("*") if path.is_file()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rgrad").rglob("*.py")}
    assert inside == sources | {"rgrad/py.typed", "rgrad/__init__.pyi"}
    metadata = email.message_from_string((unpacked / f"rgrad-{version}.dist-info" / "METADATA").read_text())
    assert metadata["Version"] == version
    needed = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert names_of(needed) == {"jax", "jaxlib", "lazy-loader", "numpy", "numpyro", "optax", "scipy"}


def test_what_is_imported_is_declared():
    project = PROJECT["project"]
    core, extras = names_of(project["dependencies"]), project["optional-dependencies"]
    of = {"scikit-learn": "sklearn", "lazy-loader": "lazy_loader"}
    assert imported("rgrad") - {"rgrad"} - OPTIONAL <= {of.get(name, name) for name in core}
    wanted = {of.get(name, name): name for name in (core | names_of(extras["experiments"])) - {"jaxlib"}}
    assert wanted == PACKAGES
    peers = {"tensorflow_probability", "torch", "genjax", "pyro", "storch", "distrax"}  # left out if they are not there
    others = imported("experiments") - {"rgrad", "experiments", *PACKAGES, *peers}
    assert others <= names_of([*extras["sweep"], *extras["dev"]])


def test_every_bound_is_a_version():
    """`.ci/lowest` installs them."""
    extras = PROJECT["project"]["optional-dependencies"]
    for text in sum(extras.values(), PROJECT["project"]["dependencies"]):
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=\d[\w.]*|rgrad\[[\w,]+\]", text), text
    assert set(extras) == {"experiments", "sweep", "benchmark", "cuda13", "docs", "dev"}


def test_the_scripts_of_a_release_are_named():
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    for name in ("lowest", "highest"):
        assert f"`.ci/{name}`" in text
        assert os.access(ROOT / ".ci" / name, os.X_OK)
        assert subprocess.run(["bash", "-n", ROOT / ".ci" / name], check=False).returncode == 0
    assert re.search(r"^## (\S+)", (ROOT / ".github" / "CHANGELOG.md").read_text(), re.M)[1] == rgrad.__version__


def test_the_public_api_is_typed(unpacked, tmp_path):
    """mypy --strict on a user's file, which sees the installed wheel: only the lines marked as wrong are."""
    (tmp_path / "user.py").write_text(USER)
    cache = ROOT / ".pytest_cache" / "mypy"  # without it, this takes 8 seconds
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(cache), "user.py"]
    env = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found_lines(r"user\.py:(\d+): error", done.stdout) == set(WRONG), done.stdout + done.stderr


def test_the_public_api_is_typed_for_pyright(unpacked, tmp_path):
    where = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    pyright = shutil.which("pyright", path=where) or shutil.which("basedpyright", path=where)
    if pyright is None:
        pytest.skip("neither pyright nor basedpyright is installed")
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [pyright, "--pythonpath", sys.executable, "user.py"]
    env = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found_lines(r"user\.py:(\d+):\d+ - error", done.stdout) == set(WRONG), done.stdout + done.stderr


def found_lines(pattern, text):
    return {int(line) for line in re.findall(pattern, text)}


@pytest.mark.parametrize(
    ("hidden", "says"),
    [(["tyro"], "tyro is"), (["sklearn", "rich"], "rich, scikit-learn are"), (["lazy_loader"], "lazy-loader is")],
)
def test_a_missing_package_is_one_line(hidden, says):
    code = f"import sys\nsys.modules.update(dict.fromkeys({hidden}))\nsys.argv = ['-m']\nimport experiments"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {says} not installed; pip install -e '.[experiments]'\n"


class Fresh:
    """A new virtual environment, and a folder for the user's files. It does not know this checkout."""

    def __init__(self, folder):
        venv.create(folder / "venv", with_pip=True)
        self.python, self.home = str(folder / "venv" / "bin" / "python"), folder / "home"
        self.home.mkdir()

    def run(self, *words, cwd=None):
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
        command = [self.python, *map(str, words)]
        return subprocess.run(command, cwd=cwd or self.home, env=env, capture_output=True, text=True, check=False)

    def output(self, *words, cwd=None):
        """The output of a command that must succeed."""
        done = self.run(*words, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """With the wheel, without extras."""
    found = Fresh(tmp_path_factory.mktemp("fresh"))
    found.output("-m", "pip", "install", "-q", wheel)
    return found


@pytest.mark.long
def test_a_fresh_environment(fresh):
    """The wheel without extras, used from a folder that has a folder `experiments` of its own."""
    home = fresh.home / "own"
    (home / "experiments").mkdir(parents=True)
    (home / "experiments" / "mine.py").write_text("")
    (home / "life.py").write_text(LIFE)
    (home / "empty.py").write_text("import experiments.mine")
    fresh.output("empty.py", cwd=home)
    assert "score_function" in fresh.output("life.py", cwd=home)
    done = fresh.run("-m", "experiments.variance", cwd=ROOT)  # a checkout, without the extra
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: matplotlib, pydantic, rich, scikit-learn, tyro are not installed; ")


@pytest.mark.long
def test_the_walk_of_a_newcomer(fresh, tmp_path):
    """pip install, the example of the README; a checkout, a figure; a file of one's own, compared and audited.

    The variances of 10,000 estimates have relative errors of about 2 %, so each fails with a probability below 1e-6.
    """
    (fresh.home / "readme.py").write_text(BLOCKS[0])
    lines = fresh.output("readme.py").splitlines()
    (score_mean, score), (path_mean, path) = ([float(word) for word in line.split()[:2]] for line in lines)
    assert abs(score_mean - 4) < 0.05
    assert abs(path_mean - 4) < 0.011
    assert abs(score / 0.87 - 1) < 0.12
    assert abs(path / 0.04 - 1) < 0.08

    checkout = tmp_path / "checkout"
    for name in ("rgrad", "experiments", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    fresh.output("-m", "pip", "install", "-q", "-e", ".[experiments]", cwd=checkout)
    said = fresh.output("-m", "experiments.variance", "--out", "results/first", cwd=checkout)
    assert "score_function" in said
    assert (checkout / "results" / "first" / "figure.png").stat().st_size > 10_000

    (checkout / "mine.py").write_text(f"{BLOCKS[1]}\n{WRONG_LOSS}")
    out = ("--out", "results/second", "--budget", "2")
    said = fresh.output("-m", "experiments.compare", "--problem", "mine.py:problem", *out, cwd=checkout)
    assert "reparameterized" in said
    out = ("--out", "results/third", "--budget", "5")
    said = fresh.output(
        "-m", "experiments.audit", "--loss", "mine.py:loss", "--params", "mine.py:start", *out, cwd=checkout
    )
    assert "BIASED" in said
    assert "mine.py" in said
