"""The rules of the code base: what may import what, how long a file may be, and that names are unique."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom up. A package may import from those to its left, and from itself.
FLOORS = ("errors", "protocols", "parameters", "parts", "printing", "backend", "noise", "autodiff", "tracing", "distributions", "estimators", "expectations",
          "policies", "problems", "measurement", "comparison", "audits", "sweeps", "integrations")  # fmt: skip
BESIDE = {
    "fitting": ("errors", "protocols", "parameters", "parts", "printing", "backend", "noise")
}  # the other packages, and what they may import
# These are slow to import, or optional. They are imported where they are used.
LAZY = {
    "scipy",
    "sklearn",
    "pandas",
    "pyarrow",
    "optax",
    "torch",
    "jax",
    "numpy",
    "numpyro",
    "resource",
    "fcntl",
    "equinox",
    "flax",
}
OWN_PROCESS = {"experiments.benchmark.peer_script"}  # each of its functions runs where only one library is installed
PUBLIC = {"rgrad", "rgrad.noise", "rgrad.problems", "rgrad.errors", "rgrad.protocols", "rgrad.measurement", "rgrad.sweeps",
          "rgrad.distributions", "rgrad.expectations", "rgrad.fitting"}  # fmt: skip


def modules(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(f.read_text())
        for f in files
    }


def imports(tree, inside=False) -> Iterator[tuple[str, bool]]:
    """Yield the imported modules, and whether each import is inside a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", inside),)
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        yield from imports(node, inside or isinstance(node, ast.FunctionDef | ast.Lambda))


@pytest.mark.parametrize("package", ["rgrad", "experiments"])
def test_no_circular_imports(package):
    found = modules(package)
    known = {
        name: {other for other, _ in imports(tree) if other in found and other != name} for name, tree in found.items()
    }
    for name, others in known.items():  # the __init__ of a package may import its own modules
        known[name] = {
            other for other in others if not name.startswith(f"{other}.") and not other.startswith(f"{name}.")
        }
    while leaves := [name for name, others in known.items() if not others]:
        known = {name: others - set(leaves) for name, others in known.items() if name not in leaves}
    assert not known, f"circles within: {known}"


def test_no_upward_import():
    wrong = []
    for name, tree in modules("rgrad").items():
        if name == "rgrad":
            continue
        floor = name.split(".")[1]
        allowed = (*BESIDE[floor], floor) if floor in BESIDE else FLOORS[: FLOORS.index(floor) + 1]
        others = {other.split(".")[1] for other, _ in imports(tree) if other.startswith("rgrad.")}
        wrong += [f"{name} imports {other}" for other in others if other in {*FLOORS, *BESIDE} and other not in allowed]
    assert not wrong, wrong


def test_imports_are_at_the_top():
    wrong = []
    for package in ("rgrad", "experiments"):
        for name, tree in modules(package).items():
            if name in OWN_PROCESS:
                continue
            wrong += [
                f"{name}: {other}" for other, inside in imports(tree) if inside and other.split(".")[0] not in LAZY
            ]
    assert not wrong, wrong


def test_no_long_file():
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in (ROOT / "rgrad").rglob("*.py")}
    assert not {name: lines for name, lines in lengths.items() if lines > 300}


def test_no_two_public_classes_of_one_name():
    trees = {**modules("rgrad"), **modules("experiments")}
    names = Counter(
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not {name: count for name, count in names.items() if count > 1}


def test_an_experiment_imports_no_other_and_nothing_private():
    wrong = []
    for name, tree in modules("experiments").items():
        if name == "experiments":
            continue
        mine = name.split(".")[1]
        for other, _ in imports(tree):
            parts = other.split(".")
            if parts[0] == "experiments" and len(parts) > 1 and parts[1] not in ("common", mine):
                wrong.append(f"{name} imports {other}")
            package = next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in PUBLIC), None)
            if parts[0] == "rgrad" and ((len(parts) > 1 and package != ".".join(parts[:2])) or len(parts) > 3):
                wrong.append(f"{name} imports {other}")
    assert not wrong, wrong


def test_no_two_modules_share_a_name_with_what_they_hold_at_the_top():
    """`rgrad.compare` is a function. A module `rgrad/compare.py` would replace it when it is imported."""
    stub = (ROOT / "rgrad" / "__init__.pyi").read_text()
    listed = ast.literal_eval(next(n.value for n in ast.parse(stub).body if isinstance(n, ast.Assign)))
    top = {p.stem for p in (ROOT / "rgrad").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert top & set(listed) <= {"noise"}


@pytest.mark.long
def test_slow_variants_exist():
    """Each line of `slow_variants.txt` is a test."""
    listed = [
        line for line in (ROOT / "tests" / "slow_variants.txt").read_text().splitlines() if not line.startswith("#")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-m",
        "long or not long",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    assert sorted(set(listed) - set(found)) == []
