"""`import rgrad`: every public name is there, and what is slow to import waits for its first use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rgrad

CODE = """
import sys, types
import jax, rgrad
assert not {"numpyro", "optax", "scipy.special"} & set(sys.modules), "import rgrad is slow again"
import rgrad.comparison.compare, rgrad.fitting.fit  # modules with the name of a function
from rgrad.comparison.compare import compare
assert rgrad.compare is compare and rgrad.fit is sys.modules["rgrad.fitting.fit"].fit
for name in rgrad.__all__:
    assert isinstance(getattr(rgrad, name), types.ModuleType) == (name == "noise"), name
assert rgrad.fit is sys.modules["rgrad.fitting.fit"].fit
"""


def test_names_are_imported_when_they_are_used():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_those_that_the_stub_imports():
    stub = ast.parse(Path(rgrad.__file__).with_suffix(".pyi").read_text())
    imported = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(imported) == sorted(listed) == rgrad.__all__


def test_a_misspelt_name():
    with pytest.raises(
        AttributeError, match="module 'rgrad' has no attribute 'reparametrized'; did you mean 'reparameterized'"
    ):
        rgrad.reparametrized  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'rgrad' has no attribute 'zzz'$"):
        rgrad.zzz  # noqa: B018
    assert not hasattr(rgrad, "__wrapped__")
