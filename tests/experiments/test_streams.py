"""Results survive a stdout or stderr that is full, closed or ASCII, a reader that has left, and a figure that fails."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from experiments.common.streams import Lenient, lost_output
from experiments.variance import VarianceSettings
from experiments.variance import experiment as variance
from experiments.variance import run as run_variance
from tests.experiments.conftest import MINE

ROOT = Path(__file__).parent.parent.parent
QUICK = ("--estimators", "reparameterized", "--num-samples", "4", "--replicates", "100")
FILES = {"result.json", "table.csv", "figure.png", "figure.svg"}


def shell(command, cwd, **environment):
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"PYTHONPATH": str(ROOT), "RUN": f"{sys.executable} -m experiments.variance {' '.join(QUICK)}"}
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=env | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("$RUN --out a > /dev/full", 74,
         "error: the report could not be printed: No space left on device; the results are written\n"),
        pytest.param("$RUN --out a <&- >&- 2>/dev/full", 0, "", marks=pytest.mark.long),
        ("$RUN --out a 2>&- | head -c 1; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)  # fmt: skip
def test_a_stream_that_does_not_work(command, status, says, tmp_path):
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (status, says)
    assert {p.name for p in (tmp_path / "a").iterdir()} == FILES


def test_an_ascii_terminal_and_a_folder_with_another_name(tmp_path):
    (tmp_path / "é$^$").mkdir()
    (tmp_path / "é$^$" / "mine.py").write_text(MINE)
    done = shell("$RUN --problem 'é$^$/mine.py:problem' --out 'é$^$/a'", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "written to \\xe9$^$/a/: result.json, table.csv, figure.png, figure.svg\n" in done.stdout
    assert {p.name for p in (tmp_path / "é$^$" / "a").iterdir()} == FILES


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_bad_input_with_closed_streams(closed, tmp_path):
    done = shell(f"$RUN --seed -1 {closed}", tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --seed: ") == ("2>" not in closed)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """A library may write to file 2, e.g. a log message, which would then be part of the results."""
    code = "import os; from experiments.common.streams import open_standard_streams as run; run(); open(f'{os.open('.', 0)}', 'w')"
    code = code.replace("os.open('.', 0)", 'os.open(".", 0)')
    done = shell(f'{sys.executable} -c "{code.replace(chr(34), chr(92) + chr(34))}" <&- >&- 2>&-', tmp_path)
    assert done.returncode == 0
    (number,) = (int(path.name) for path in tmp_path.iterdir())
    assert number > 2


def lenient(place, monkeypatch, **options):
    stream = Lenient(open(place, "w", **options))  # noqa: PTH123  a path or a number
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_full_disk_is_reported_and_the_rest_is_dropped(monkeypatch):
    stream = lenient("/dev/full", monkeypatch)
    for _ in range(10_000):
        print("a line that does not fit")
    stream.stream.close()  # as Python does at the end of the process
    assert stream.error.errno == 28


def test_what_was_lost(monkeypatch):
    lenient("/dev/full", monkeypatch)
    print("x")
    assert lost_output() == "No space left on device"
    lenient(os.devnull, monkeypatch)
    print("x")
    assert lost_output() is None


def test_a_reader_that_is_gone_loses_nothing(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    stream = lenient(writer, monkeypatch)
    print("x")
    assert lost_output() is None
    assert isinstance(stream.error, BrokenPipeError)
    print("y")
    stream.stream.close()  # as Python does at the end of the process


def test_what_an_encoding_lacks_is_escaped(tmp_path, monkeypatch):
    lenient(tmp_path / "out", monkeypatch, encoding="ascii")
    print("é \udce9", flush=True)
    assert (tmp_path / "out").read_text() == "\\xe9 \\udce9\n"


def test_a_closed_stream_is_nowhere():
    with contextlib.closing(Lenient(None)) as stream:
        assert stream.write("x") == 1
        assert (stream.isatty(), stream.error) == (False, None)


def test_other_attributes_are_those_of_the_stream():
    assert Lenient(io.StringIO("x")).getvalue() == "x"


def test_a_figure_that_fails_keeps_the_measurement(run_main, monkeypatch):
    """The figure of an earlier run in the folder is removed: it would show other results."""
    assert run_main(VarianceSettings, run_variance, *QUICK, "--out", "a")[0] == 0
    assert {p.name for p in Path("a").iterdir()} == FILES
    before = Path("a/table.csv").read_bytes()

    def fails(*args):
        raise RuntimeError("no latex\nhere")

    monkeypatch.setattr(variance, "draw_figure", fails)
    status, out, err = run_main(VarianceSettings, run_variance, *QUICK, "--seed", 1, "--out", "a")
    assert (status, err) == (
        2,
        "error: the figure could not be drawn: RuntimeError: no latex here; the other results are in a/\n",
    )
    assert "written to a/: result.json, table.csv\n" in out
    assert {p.name for p in Path("a").iterdir()} == {"result.json", "table.csv"}
    assert Path("a/table.csv").read_bytes() != before


@pytest.mark.skipif(shutil.which("latex") is not None, reason="LaTeX is installed")
def test_latex_that_is_not_installed(run_main):
    with mpl.rc_context({"text.usetex": True}):
        status, _, err = run_main(VarianceSettings, run_variance, *QUICK, "--out", "a")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: the figure could not be drawn: ")
    assert {p.name for p in Path("a").iterdir()} == {"result.json", "table.csv"}
