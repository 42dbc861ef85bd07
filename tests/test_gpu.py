"""`.ci/gpu`: a rehearsal of all parts on the CPU, and parts that raise, crash, hang or are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.cli import main
from tests.gpu.judging import Case, Sample, judged
from tests.gpu.noise_rates import plan
from tests.gpu.post import exact_post, post_errors, right
from tests.gpu.report import Report
from tests.gpu.summary import summary
from tests.gpu.table import PARTS, chosen

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "gpu"
STUBS = ("--parts", "stub1,stub2,stub3", "--minutes", "1")
LAST = re.compile(r"GPU parts: (\d+) ok, (\d+) failed, (\d+) skipped\n$")


def started(out, *flags):
    command = [sys.executable, str(SCRIPT), "--rehearse", "--out", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(out, *flags):
    """Return the status, the output and the parts of the report."""
    process = started(out, *flags)
    text, _ = process.communicate(timeout=280)
    return process.returncode, text, json.loads((out / "gpu.json").read_text())["parts"]


@pytest.mark.parametrize(
    "names", [("a1", "b1", "b2", "b9", "c1", "d3"), pytest.param(tuple(PARTS), marks=pytest.mark.long)]
)
def test_a_rehearsal(names, tmp_path):
    """Every part is right on the CPU, at tiny sizes. Only what is not installed is skipped."""
    # The minutes: so that a slow machine skips nothing.
    status, text, parts = ended(tmp_path, "--minutes", "60", "--parts", ",".join(names))
    assert list(parts) == list(names), text
    missing = {"d3"} if find_spec("torch") is None else set()
    assert {name: part["state"] for name, part in parts.items()} == {
        name: "skipped" if name in missing else "ok" for name in names
    }, text
    assert status == 0
    assert LAST.search(text).groups() == (str(len(names) - len(missing)), "0", str(len(missing)))
    assert len(text[text.index("SUMMARY") :].splitlines()) <= 40
    for name, part in parts.items():
        assert part["title"] == PARTS[name].title
        # A program may still be compiling: jax 0.12 takes minutes for one of the forms of the noise.
        left = [what for what in part["skipped"] if not what.endswith("(started)")]
        assert left == [], (name, left)
        assert part["rows"] or part["checks"] or name in missing, name
        for row in (*part["rows"].values(), *part["checks"].values()):
            assert (row["device"], row["chip"]) == ("cpu", "cpu")
    assert parts["b2"]["notes"]["estimators without a case"] == []
    assert parts["c1"]["notes"]["winners"]["n = 1000"]["2^16"]["rate"] > 0
    assert parts["a1"]["notes"]["versions"]["jax"]
    assert not list(tmp_path.glob(".gpu.json.*"))


def test_a_part_that_raises_crashes_or_hangs_does_not_stop_the_others(tmp_path):
    """The second process takes over after a crash, and the third one after a part that hangs."""
    flags = ("--fault", "stub1=crash", "--fault", "stub2=hang", "--limit", "1")
    status, text, parts = ended(tmp_path, *STUBS, *flags)
    assert (status, LAST.search(text).groups()) == (1, ("1", "2", "0"))
    assert parts["stub1"]["error"] == "its process ended with status -11"
    assert re.fullmatch(r"it was not finished \d s after its time, so its process was killed", parts["stub2"]["error"])
    assert parts["stub3"]["state"] == "ok"
    assert parts["stub3"]["checks"]["right"]["ok"]

    status, text, parts = ended(tmp_path, *STUBS, "--fault", "stub2=raise")
    assert (status, LAST.search(text).groups()) == (1, ("2", "1", "0"))
    assert parts["stub2"]["error"] == "RuntimeError: planted by --fault"
    assert "in planted" in parts["stub2"]["traceback"]
    assert (tmp_path / "gpu.previous.json").exists()  # that of the first run


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_run_that_is_killed_leaves_what_it_has_measured(tmp_path):
    """SIGKILL in the middle of a part. The report is valid, and the process of the parts ends too."""
    process = started(tmp_path, *STUBS, "--fault", "stub2=hang")
    until, path = time.monotonic() + 60, tmp_path / "gpu.json"
    current = lambda: (json.loads(path.read_text())["current"] or {}) if path.exists() else {}
    while current().get("part") != "stub2":
        assert time.monotonic() < until, process.poll()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = json.loads(path.read_text())["parts"]
    assert {name: part["state"] for name, part in parts.items()} == {
        "stub1": "ok",
        "stub2": "running",
        "stub3": "pending",
    }
    assert parts["stub1"]["rows"] == {"first": {"device": "none", "chip": "none", "value": 1}}
    while running(children[0]):
        assert time.monotonic() < until
        time.sleep(0.05)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_sigterm_ends_a_run_with_its_summary(tmp_path):
    process = started(tmp_path, *STUBS, "--fault", "stub2=hang")
    for line in process.stdout:
        if line.startswith("stub1 ok"):
            break
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert "stopped: signal 15" in text
    assert LAST.search(text).groups() in (("1", "1", "1"), ("1", "0", "2"))


def test_without_a_gpu_a_part_says_so(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--parts", "b1", "--minutes", "1"]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "JAX has no GPU, only [CpuDevice(id=0)]; install jax[cuda13], or use --rehearse" in done.stdout
    assert LAST.search(done.stdout).groups() == ("0", "1", "0")


def test_the_parts_need_neither_tyro_nor_pydantic():
    """They may be missing on the machine with the GPU. The models of the experiments are used without them."""
    code = """
import importlib, sys
sys.modules |= dict.fromkeys(["tyro", "pydantic"])  # imports of these raise
from tests.gpu.table import PARTS
for part in PARTS.values():
    module, function = part.place.split(":")
    assert callable(getattr(importlib.import_module(f"tests.gpu.{module}"), function))
from tests.gpu.models import experiment_module
assert experiment_module("logistic", "task").run_fits
assert experiment_module("vae", "model").log_joint
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--parts", "a1,q"), "--parts a1,q: unknown part 'q'; choose from a1, a2, b1"),
        (("--parts", "a1", "--fault", "b1=raise"), "--fault b1=raise: give a part of the run"),
        (("--parts", "a1", "--fault", "a1=jump"), "one of raise, crash, hang, kill"),
        (("--minutes", "0"), "--minutes 0: give a positive number"),
    ],
)
def test_bad_flags(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main("about", list(flags))
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_letter_selects_its_parts():
    assert chosen("b1,a,d7") == ["b1", "a1", "a2", "d7"]
    assert chosen("a,b,c,d,e") == list(PARTS)
    assert chosen(",".join(PARTS)) == list(PARTS)


def test_the_summary_has_40_lines(tmp_path, capsys):
    """However much was measured."""
    report = Report(tmp_path)
    for name in PARTS:
        report.part(name).update(state="failed", error="x" * 1000)
    row = {"rate": 1e9, "share of the peak": 0.5}
    report.part("d5")["rows"] = {f"fit {i}": row for i in range(100)}
    assert summary(report.data) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 40
    assert lines[-1] == f"GPU parts: 0 ok, {len(PARTS)} failed, 0 skipped"


def test_numbers_that_json_cannot_express(tmp_path):
    report = Report(tmp_path)
    report.part("a1")["notes"] = {
        "a": float("nan"),
        "b": np.float32(np.inf),
        "c": np.arange(2),
        "d": (1, None, True),
        3: "x",
    }
    report.save()
    notes = json.loads((tmp_path / "gpu.json").read_text(), parse_constant=pytest.fail)["parts"]["a1"]["notes"]
    assert notes == {"a": "nan", "b": "inf", "c": [0, 1], "d": [1, None, True], "3": "x"}


def test_wrong_moments_are_seen():
    """A mean that is off by 6 standard errors, a variance that is off by 10 %, a nan."""
    good = Sample(np.array([4.0]), np.array([0.01]), np.array([8.7]), np.array([20_000.0]), np.array([0]))
    case = Case(lambda: None, 4.0, 8.7)
    assert judged(case, good)[0]
    for wrong in ({"mean": np.array([4.06])}, {"variance": np.array([9.57])}, {"nonfinite": np.array([1])}):
        assert not judged(case, good._replace(**wrong))[0], wrong
    assert not judged(case._replace(below=8.0), good)[0]

    class Post:
        count = 100_000.0
        mean, variance, _ = exact_post(10)

    assert right(post_errors(Post, 10))
    for name, wrong in (("mean", [4.06, 4.0]), ("variance", [8.7, 0.41])):
        assert not right(post_errors(type("Off", (Post,), {name: wrong}), 10)), name


def test_the_plan_of_the_noise_is_valid():
    """Every setting has at least two rows, and the first settings are the most important ones."""
    first, rest = plan(tiny=False)
    assert all(s.rows >= 2 and s.n * s.rows <= s.flight for s in first + rest)
    assert len({s.label for s in first + rest}) == len(first + rest)
    assert {s.n for s in first} == {1_000}
    assert {s.n for s in rest} == {10, 1_000, 100_000}


def test_no_long_file_and_a_short_head():
    """The same limits as in rgrad, and about ten lines at the head of the script."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "tests" / "gpu").glob("*.py")}
    assert max(lengths.values()) <= 300, lengths
    assert len(SCRIPT.read_text().split('"""')[1].splitlines()) <= 14
    assert os.access(SCRIPT, os.X_OK)
