"""Builds the documentation site, for the tests that look at it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / ".docs"
NEEDS = ("sphinx", "furo", "myst_parser", "sphinx_design")


def built(out):
    """The folder of the pages, built in `out`. A warning of Sphinx is an error."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        pytest.skip(f"the site needs {', '.join(missing)}: pip install '.[docs]'")
    out = out.resolve()
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", out / "doctrees"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "sphinx", *options, DOCS, out / "html"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return out / "html"
