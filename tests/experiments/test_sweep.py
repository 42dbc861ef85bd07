"""`experiments.sweep`: kills, several processes, and bad flags. `experiments.plot` of its results."""

import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments.common import record
from experiments.common.settings import read_toml
from experiments.plot import PlotSettings
from experiments.plot import run as run_plot
from experiments.sweep import SweepSettings
from experiments.sweep import run as run_sweep
from experiments.sweep.axes import checked, parse_axes, values_of

ROOT = Path(__file__).parent.parent.parent
FLAGS = ("--axes", "loc=-1:2:6", "scale=1,2", "n=10", "--estimators", "score_function", "--replicates", "3000",
         "--chunk", "3")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed sweep: 12 cells in 4 chunks."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    # Without the tests' compilation cache: reading it may print warnings of its own.
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    ran = subprocess.run(command(*FLAGS, "--out", folder), capture_output=True, text=True, cwd=folder.parent, env=env)
    assert (ran.returncode, ran.stderr) == (0, "")
    return folder


def command(*flags, module="sweep"):
    return [sys.executable, "-m", f"experiments.{module}", *map(str, flags)]


@pytest.fixture
def sweep(run_main):
    return lambda *flags: run_main(SweepSettings, run_sweep, *flags)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the folder, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def table(folder):
    return (folder / "table.csv").read_bytes()


def chunks(folder):
    return sorted(folder.glob("chunks/*.chunk"))


def test_what_it_writes(whole):
    assert {p.name for p in whole.iterdir()} == {"chunks", "plan.json", "table.csv", "table.parquet", "result.json",
                                                 "figure.png", "figure.svg", ".lock-0"}  # fmt: skip
    assert len(chunks(whole)) == 4
    rows = list(csv.DictReader((whole / "table.csv").open()))
    assert [(float(r["loc"]), float(r["scale"])) for r in rows] == sorted(
        (float(r["loc"]), float(r["scale"])) for r in rows
    )
    assert len(rows) == 12
    # The standard error of 3,000 gradients is 2 % of a standard deviation. False failures: 2e-8 for all 12 cells.
    for row in rows:
        assert abs(float(row["mean"]) - 2 * float(row["loc"])) <= 6 * float(row["standard_error"])
    result = json.loads((whole / "result.json").read_text())
    assert result["speed"]["draws"] == 12 * 3000 * 10
    (row,) = result["rows"]
    assert (row["cells"], row["best"], row["nonfinite"]) == (12, 12, 0)


def test_parquet_holds_the_same(whole):
    import pyarrow.parquet as pq

    columns = pq.read_table(whole / "table.parquet").to_pydict()
    rows = list(csv.DictReader((whole / "table.csv").open()))
    assert columns["variance"] == [float(row["variance"]) for row in rows]
    assert columns["estimator"] == [row["estimator"] for row in rows]


def kill_and_resume(folder, whole, sweep, moment):
    """Kill a run when `moment` chunks exist, or a little later. Another process resumes it."""
    process = subprocess.Popen(command(*FLAGS, "--out", folder), stdout=subprocess.DEVNULL, cwd=folder.parent)
    while len(chunks(folder)) < moment and process.poll() is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = len(chunks(folder))
    again = ("--resume", folder) if (folder / "plan.json").exists() else (*FLAGS, "--out", folder)
    status, _, err = sweep(*again)
    assert (status, err) == (0, "")
    assert table(folder) == table(whole), f"killed with {left} chunks"
    return left


def test_killed_and_resumed_it_ends_with_the_same_bytes(whole, sweep, tmp_path):
    assert kill_and_resume(tmp_path / "killed", whole, sweep, 1) >= 1


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_ten_random_moments(whole, sweep, tmp_path):
    """Before the first chunk, between chunks, and while the tables are written."""
    for i in range(10):
        kill_and_resume(tmp_path / str(i), whole, sweep, random.randint(0, 4))


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "renamed", "a folder"])
def test_a_damaged_chunk_is_computed_again(copy, whole, sweep, damage):
    (copy / "table.csv").unlink()
    first, second = chunks(copy)[:2]
    content = first.read_bytes()
    if damage == "cut":
        first.write_bytes(content[:-9])
    elif damage == "flipped":
        first.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "gone":
        first.unlink()
    elif damage == "a folder":
        first.unlink()
        first.mkdir()
    else:  # an intact chunk, but of other cells
        first.write_bytes(second.read_bytes())
    status, out, err = sweep("--resume", copy)
    assert (status, err) == (0, "")
    assert ("damaged chunk, will be computed again: " in out) == (damage != "gone")
    assert len(list((copy / "chunks").glob("*.damaged"))) == (damage != "gone")  # nothing is deleted
    assert table(copy) == table(whole)


def test_more_replicates(copy, sweep):
    """6,000 replicates in two runs give the same as in one."""
    status, _, _ = sweep("--resume", copy, "--replicates", 6000)
    assert status == 0
    assert len(chunks(copy)) == 8
    assert sweep(*("6000" if flag == "3000" else flag for flag in FLAGS), "--out", "at_once")[0] == 0
    for a, b in zip(
        csv.DictReader((copy / "table.csv").open()), csv.DictReader(Path("at_once/table.csv").open()), strict=True
    ):
        assert a["replicates"] == b["replicates"] == "6000"
        assert abs(float(a["mean"]) - float(b["mean"])) <= 1e-6 * float(a["variance"]) ** 0.5
        assert abs(float(a["variance"]) / float(b["variance"]) - 1) <= 1e-6
    status, _, err = sweep("--resume", copy, "--replicates", 3000)
    assert (status, err) == (
        2,
        f"error: --replicates 3000: --resume {copy} already has 6000; give at least that many\n",
    )


def test_a_full_disk(copy, whole, sweep, monkeypatch):
    """Finished chunks are kept, nothing is half-written, and the sweep continues when there is space."""
    for path in chunks(copy)[1:]:
        path.unlink()
    (copy / "table.csv").unlink()
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(record.os, "fsync", full)
    status, _, err = sweep("--resume", copy)
    monkeypatch.undo()
    assert status == 2
    assert "No space left on device; free some space" in err
    assert f"continue with --resume {copy}" in err
    assert 1 <= len(chunks(copy)) < 4
    assert [p.name for p in copy.rglob(".*")] == [".lock-0"]
    assert sweep("--resume", copy)[0] == 0
    assert table(copy) == table(whole)


def test_a_second_process_is_refused(copy, sweep):
    import fcntl

    with (copy / ".lock-0").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, _, err = sweep("--resume", copy)
        assert (status, err) == (
            2,
            f"error: {copy}: another process is working on this sweep; wait for it, or stop it first\n",
        )
    assert sweep("--resume", copy)[0] == 0


def together():
    """The flags of two processes, except the number of the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return "--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process"


def test_two_processes(whole, tmp_path):
    """Two processes give the same bytes, and each computes half of the chunks. If one does not start, the other reports it."""
    flags = (*FLAGS, "--out", "two", *together())
    started = [
        subprocess.Popen(command(*flags, i), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for i in range(2)
    ]
    said = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert table(tmp_path / "two") == table(whole)
    assert "6 cells in" in said[0][0]
    assert "cells" not in said[1][0]
    flags = tuple("alone" if flag == "two" else flag for flag in flags)
    alone = subprocess.run(command(*flags, 0, "--wait", 2), capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert alone.returncode == 2
    assert alone.stderr.startswith(
        "error: --wait 2: after 2 seconds not all of the 2 processes have connected; start each"
    )
    assert not (tmp_path / "alone").exists()


OTHER_VERSION = """
import importlib.metadata as metadata, runpy, sys
true = metadata.version
metadata.version = lambda name: "0.1" if name == "jax" else true(name)
runpy.run_module("experiments.sweep", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "difference",
    [
        ("--seed", 1),
        *(
            pytest.param(difference, marks=pytest.mark.long)
            for difference in (
                ("--axes", "loc=-1:2:5", "scale=1,2", "n=10"), ("--estimators", "reparameterized"),
                ("--replicates", 6000), ("--chunk", 4), "version",
            )
        ),
    ],
)  # fmt: skip
def test_two_processes_that_differ(difference, tmp_path):
    """Both are refused in one line, and nothing is written."""
    flags = (*FLAGS, "--out", "other", *together())
    first, second = command(*flags, 0), command(*flags, 1)
    if difference == "version":
        second = [sys.executable, "-c", OTHER_VERSION, *second[3:]]
    else:
        second = command(*replaced(flags, difference), 1)
    started = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
        for argv in (first, second)
    ]  # fmt: skip
    for process in started:
        _, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (
            2,
            "error: process 1 has other settings, code or versions than process 0; start all processes with the same flags, except --process\n",
        )
    assert not (tmp_path / "other").exists()


def replaced(flags, difference):
    """The flags, with another value of one of them."""
    name, *_values = difference
    if name not in flags:
        return (*difference, *flags)
    start = flags.index(name)
    end = next(i for i in range(start + 1, len(flags)) if str(flags[i]).startswith("--"))
    return (*flags[:start], *difference, *flags[end:])


def test_a_busy_port(sweep):
    """The refusal is immediate. The program that uses the port may be another sweep."""
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        where = f"127.0.0.1:{busy.getsockname()[1]}"
        status, _, err = sweep(*FLAGS, "--out", "a", "--coordinator", where, "--processes", 2, "--process", 0)
    assert (status, err) == (
        2,
        f"error: --coordinator {where}: another program uses this port; give another port, the same in all processes\n",
    )
    assert not Path("a").exists()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_process_that_is_killed(signum, sweep, tmp_path):
    """The other process finishes its share and names the lost one. Resumed, the sweep ends with the bytes of a single process."""
    more = ("--axes", "loc=-1:2:6", "scale=1,2", "n=10", "--estimators", "score_function", "--replicates", "200000",
            "--chunk", "1")  # fmt: skip
    flags = (*more, "--out", "two", *together())
    first, second = (
        subprocess.Popen(command(*flags, i), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for i in range(2)
    )
    # The processes have disconnected when there is a chunk. Each has 6 chunks, of some 50 ms.
    while not chunks(tmp_path / "two") and first.poll() is None and second.poll() is None:
        time.sleep(0.001)
    second.send_signal(signum)
    _, err = second.communicate()
    kept = "the finished chunks are kept; continue with --resume two"
    if signum == signal.SIGTERM:
        assert (second.returncode, err) == (143, f"interrupted; {kept}\n")
    out, err = first.communicate(timeout=200)
    assert first.returncode == 2, out
    assert err == f"error: process 1 ended before its share was done ({kept})\n"
    assert 6 <= len(chunks(tmp_path / "two")) < 12
    assert sweep("--resume", "two")[0] == 0
    assert sweep(*more, "--out", "one")[0] == 0
    assert table(Path("two")) == table(Path("one"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--axes", "loc="), "--axes"),
        (("--axes", "loc=1:2"), "'loc=1:2' is not a range; write loc=-3:3:61"),
        (("--axes", "loc=2:1:5"), "from 2.0 to 1.0 is not a range"),
        (("--axes", "scale=log:0:1:5"), "a logarithmic range cannot start at 0.0; start above 0"),
        (("--axes", "loc=1,1"), "--axes: sweep: duplicate cells: axis loc has 1.0 more than once"),
        (("--axes", "lok=1"), "--axes: sweep: axis lok: this problem has no such parameter; choose from loc, scale, n, dimension"),
        (("--axes", "dimension=1,2"), "has no of_dimension"),
        (("--axes", "loc=1", "scale=-1,1"), "Normal got scale = -1.0, which is not allowed"),
        (("--axes", "n=1", "loc=1", "--estimators", "score_function+leave_one_out"), "score_function+leave_one_out with n = 1"),
        (("--axes", "loc=1", "--params", "loc=2"), "loc is both an axis and a fixed parameter"),
        (("--devices", "0"), "--devices"),
        (("--chunk", "0"), "--chunk"),
        (("--platform", "gpu"), "--platform gpu: jax found only cpu"),
        (("--platform", "cray"), "--platform"),
        (("--processes", "2"), "--coordinator, --processes and --process belong together"),
        (("--coordinator", "here", "--processes", "2", "--process", "0"), "--coordinator here: write HOST:PORT"),
        (("--coordinator", "h:1", "--processes", "2", "--process", "2"), "--process 2: processes are numbered from 0; give 0 to 1"),
        (("--coordinator", "h:1", "--processes", "2", "--process", "1"), "--out: several processes write to one folder"),
        (("--wait", "0"), "--wait"),
        (("--cluster",), "--out: several processes"),
        (("--resume", "nowhere"), "--resume nowhere: this folder has no sweep"),
        (("--resume",), "--resume"),
    ],
)  # fmt: skip
def test_bad_input(sweep, flags, message):
    status, out, err = sweep(*flags)
    assert status == 2, out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("results").exists()


def test_a_folder_with_other_settings(copy, sweep):
    status, _, err = sweep("--resume", copy, "--seed", 1, "--axes", "loc=-1:2:6", "scale=1,3", "n=10")
    assert status == 2
    assert "it was started with other settings: " in err
    assert "seed (0, now 1)" in err
    assert 'axes ({"loc": ' in err
    assert "estimators" not in err
    status, _, err = sweep(*FLAGS, "--out", copy)
    assert (
        status,
        err.startswith(f"error: --out {copy}: this folder already has a sweep; continue with --resume {copy}"),
    ) == (
        2,
        True,
    )
    (copy / "plan.json").write_text("{")
    assert "cannot read" in sweep("--resume", copy)[2]


def test_a_plan_with_a_changed_digit(copy, sweep):
    """ "seed": 0 becomes 1. Without a checksum, all chunks would be called damaged, and computed for the other seed."""
    plan = (copy / "plan.json").read_text()
    (copy / "plan.json").write_text(plan.replace('"seed": 0', '"seed": 1'))
    status, out, err = sweep("--resume", copy)
    assert (status, err.count("\n")) == (2, 1)
    assert "plan.json has been changed or is damaged" in err
    assert "damaged chunk" not in out
    assert len(chunks(copy)) == 4


PROBLEM = """
import numpyro.distributions as dist
class problem:
    params = {"loc": 1.0}
    def distribution(params): return dist.Normal(params["loc"], 1.0)
    def objective(params, x): return x ** 2
"""


def test_resumed_with_other_code_or_another_generator(sweep):
    Path("mine.py").write_text(PROBLEM)
    flags = ("--axes", "loc=1,2", "n=5", "--problem", "mine.py:problem", "--estimators", "reparameterized")
    assert sweep(*flags, "--replicates", 20, "--out", "a")[0] == 0
    status, _, err = sweep("--resume", "a", "--replicates", 40)
    assert (status, err) == (
        2,
        "error: --resume a: its plan names code to import: mine.py:problem; if you trust it, repeat --problem mine.py:problem\n",
    )
    resumed = ("--resume", "a", "--problem", "mine.py:problem")
    assert sweep(*resumed, "--replicates", 40)[0] == 0
    before = table(Path("a"))
    with jax.threefry_partitionable(False):
        err = sweep(*resumed, "--replicates", 60)[2]
    assert "other code or versions: threefry_partitionable (True, now False); go back to these" in err
    Path("mine.py").write_text(PROBLEM.replace("x ** 2", "x ** 3"))
    status, _, err = sweep(*resumed, "--replicates", 60)
    assert (status, err.count("\n")) == (2, 1)
    assert "it was started with other code or versions: source of mine.py; go back to these" in err
    assert table(Path("a")) == before


def test_axes_as_they_are_written():
    axes = checked(parse_axes(["loc=-3:3:7", "scale=log:0.1:10:3", "n=log:10:1000:3", "v=[[1,2],[3,4]]", "one=-1e-3"]))
    values = {name: list(values_of(name, axis)) for name, axis in axes.items()}
    assert values["loc"] == [-3, -2, -1, 0, 1, 2, 3]
    assert values["scale"] == pytest.approx([0.1, 1, 10])
    assert values["n"] == [10, 100, 1000]
    assert values["v"] == [[1, 2], [3, 4]]
    assert values["one"] == [-1e-3]
    for axis, message in (
        ({"from": 0, "to": 1, "steps": 3}, "unknown key 'steps'"),
        ({"from": 0, "to": 1}, "lacks 'points'"),
        ({"from": 0, "to": 1, "points": 1.5}, "points = 1.5"),
        (3, "is not a list"),
    ):
        with pytest.raises(ValueError, match=message):
            checked({"loc": axis})


def test_the_slurm_script():
    script = ROOT / "configs" / "slurm_sweep.sh"
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    words = script.read_text().split()
    read_toml(str(ROOT / words[words.index("--config") + 1]), SweepSettings)
    assert "--cluster" in words


def plot(run_main, *flags):
    return run_main(PlotSettings, run_plot, *flags)


def test_plot(copy, run_main):
    status, out, err = plot(run_main, copy, "--x", "loc", "--y", "variance", "--hue", "scale")
    assert (status, err) == (0, "")
    assert "variance-over-loc.png" in out
    assert plot(run_main, copy, "--x", "loc", "--y", "mean", "--where", "scale=1", "--out", "here")[0] == 0
    assert (Path("here") / "mean-over-loc.svg").read_bytes().startswith(b"<?xml")
    assert plot(run_main, copy, "--x", "loc", "--y", "scale", "--heat", "variance", "--hue", "estimator")[0] == 0
    assert (copy / "variance-over-loc-scale.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--x", "lok"), "--x lok: "),
        (("--x", "loc"), "there are several rows for loc = -1.0, by scale (1.0, 2.0); choose one, e.g. --where scale=1.0, or use --hue scale"),
        (("--x", "loc", "--where", "scale=7"), "--where scale=7: no row has this value; give one of 1, 2, ..."),
        (("--x", "loc", "--where", "skale=7"), "--where skale: "),
        (("--x", "loc", "--where", "scale"), "'scale' is not of the form name=value"),
        (("--x", "loc", "--y", "estimator"), "--y estimator: the column holds text"),
        ((), "DIR and --x are required"),
        (("--x", "loc", "--x-scale", "round"), "--x-scale"),
    ],
)  # fmt: skip
def test_plot_bad_input(whole, run_main, flags, message):
    status, _, err = plot(run_main, whole, *flags)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_plot_without_results(run_main, tmp_path):
    status, _, err = plot(run_main, tmp_path, "--x", "loc")
    assert (status, err) == (
        2,
        f"error: {tmp_path}: it has no table.csv; give the folder with the results of a run\n",
    )
