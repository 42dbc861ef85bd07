import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import shutil
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

# The processes that tests start find the experiments from any folder. Only `rgrad` is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Before jax is imported: keep the compiled programs of the tests for the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
# Keep small ones too: eager code compiles each operation, and the caches in memory are cleared after each file.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tests spend most of their time on compilation. With less optimisation, and without the emitters that set up MLIR for each
# fusion, it takes half the time, and the results are the same. (At level 0 the last bits depend on the compilation cache.)
# One thread is enough to compile a program, because each core has its own worker.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
    # Later versions of jaxlib do not know this flag, and end the process.
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

import rgrad  # noqa: F401, I001  before jax: it sets an XLA flag, without which jax.jit cannot be trusted on CPU
import jax
import numpyro
import pytest

# Tracing makes many small objects that live as long as the tests. Collecting them less often saves some per cent.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


SLOW_VARIANTS = {
    line
    for line in (Path(__file__).parent / "slow_variants.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Mark the tests in `slow_variants.txt` as long."""
    for item in items:
        if item.nodeid in SLOW_VARIANTS:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def small_process():
    """Drop the compiled programs after each test file. Otherwise they fill 6 GB and make the process slow."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def x64():
    """Use 64-bit floats within the test."""
    with jax.enable_x64(True):
        yield


@contextlib.contextmanager
def as_found():
    """Leave the settings of jax and NumPyro unchanged."""
    validation, wide = numpyro.distributions.distribution._VALIDATION_ENABLED, jax.config.jax_enable_x64
    yield
    numpyro.enable_validation(validation)
    jax.config.update("jax_enable_x64", wide)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """`small_run("bounds") -> (status, stdout, stderr, folder)`: run an experiment on its small config, once.

    The workers of pytest-xdist share the runs: a worker that needs one that another is making waits for it. It runs with
    `--readme`, on a copy of its README: `folder.parent / "bounds" / "README.md"`.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small_runs"
    shared.mkdir(exist_ok=True)

    @cache
    def call(name):
        home = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            said = home / "said.json"
            if not said.exists():
                home.mkdir()
                said.write_text(json.dumps(made(name, home)))
        return *json.loads(said.read_text()), home / "whole"

    return call


def made(name, home):
    """Run an experiment into `home / "whole"`. Returns the status, stdout and stderr."""
    from experiments.common import readme
    from experiments.common.runner import main

    module = importlib.import_module(f"experiments.{name}")
    (home / name).mkdir()
    shutil.copy(readme.readme_of(name), home / name)
    config = Path(__file__).parent.parent / "configs" / f"{name}_small.toml"
    out, err = io.StringIO(), io.StringIO()
    with (
        as_found(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(readme, "HOME", home)
        flags = ["--config", str(config), "--out", str(home / "whole"), "--readme"]
        status = main(getattr(module, f"{name.capitalize()}Settings"), module.run, flags)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def run_main(tmp_path, monkeypatch, capsys):
    """`run_main(Settings, run, *flags) -> (status, stdout, stderr)`: run in an empty folder, then restore jax."""
    from experiments.common.runner import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's mine.py

    def call(model, run, *flags):
        status = main(model, run, [str(flag) for flag in flags])
        out = capsys.readouterr()
        return status, out.out, out.err

    with as_found():
        yield call
