"""`python -m experiments.benchmark`: correct rivals, a wrong rival that is rejected, and the output of the command."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmark import BenchmarkSettings, compilation, peers, run, steps
from experiments.benchmark import c as benchmark_c
from experiments.benchmark import processes as benchmark_processes
from experiments.benchmark import rivals as benchmark_rivals
from experiments.benchmark import study as benchmark_task
from experiments.benchmark.fit import check as check_fits
from experiments.benchmark.rivals import CONTENDERS, Missing, RivalMoments, WrongResult
from experiments.benchmark.settings import Rival

SMALL = ("--sections", "draws", "--rounds", 1, "--seconds", 0.001, "--rivals")


def test_the_small_run(small_run):
    """Every result was checked when it was measured."""
    status, out, err, folder = small_run("benchmark")
    assert (status, err) == (0, "")
    result = json.loads((folder / "result.json").read_text())
    rows = {(r["section"], r["contender"]): r for r in result["rows"]}
    assert rows["draws", "rgrad"]["times"] == rows["fit", "rgrad"]["times"] == 1
    for name in ("numpy loop", "numpy threads"):
        r = rows["draws", name]
        assert 0 < r["times_low"] <= r["times"] <= r["times_high"]
        assert r["seconds"] == pytest.approx(r["n"] / r["rate"])
    assert all(r["error"] <= 1e-6 for r in rows.values() if r["section"] == "precision")
    assert result["provenance"]["machine"]["cores"] >= 1
    assert result["provenance"]["machine"]["cpu"]
    assert "speed-up over the contender" in out


@pytest.mark.parametrize("n", [7, 300, 40_000])
@pytest.mark.parametrize("name", ["numpy loop", "numpy threads", "C"])
def test_rivals_are_right(name, n):
    """Mean and variance of both gradients are within 6 standard errors, also for an odd n and one larger than a block.
    False failures: about 1e-8 each, 1e-7 with heavier tails. Catches a variance off by 3 % (n = 7) and by 45 % (n = 40,000)."""
    if name == "C" and shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    got = CONTENDERS[name](n)(max(350, 2**18 // n), 1)
    benchmark_task.check(name, n, got, 6.0)


def test_the_stock_jax_rival_is_right():
    """Within 8 standard errors. False failures: below 1e-9. Catches a variance off by 15 %, a mean by 6 %."""
    benchmark_task.check("jax streamed", 10, CONTENDERS["jax streamed"](10)(2**15, 1))
    benchmark_task.check("jax naive", 10, CONTENDERS["jax naive"](10)(2**15, 1))


@pytest.mark.parametrize(
    ("mean", "variance", "message"),
    [
        ((4.0, 4.0), (8.7, 0.4), None),
        ((4.0, 4.0), (8.7, 0.42), r"reparameterized, N = 10, 100,000 replicates: .* 4.2 \(expected 4\)"),
        ((4.0, 4.02), (8.7, 0.4), r"reparameterized.*: mean 4.02 \(expected 4\)"),
        ((4.1, 4.0), (8.7, 0.4), r"score function.*: mean 4.1 \(expected 4\)"),
        ((4.0, 4.0), (9.6, 0.4), "score function"),
        ((4.0, 4.0), (float("nan"), 0.4), "score function"),
    ],
)
def test_the_check_of_results(mean, variance, message):
    """Planted errors of 5 and 10 % in a variance and of 0.02 and 0.1 in a mean, at 100,000 replicates."""
    got = RivalMoments(100_000, mean, variance)
    if message is None:
        benchmark_task.check("rival", 10, got)
    else:
        with pytest.raises(WrongResult, match=message):
            benchmark_task.check("rival", 10, got)


def test_the_kurtosis_is_that_of_the_score_function():
    """Against quadrature, which is exact for polynomials of this degree."""
    e, weight = np.polynomial.hermite_e.hermegauss(20)
    g = (2 + e) ** 2 * e - 4
    expect = lambda values: weight @ values / weight.sum()
    assert expect(g) == pytest.approx(0, abs=1e-9)
    assert expect(g**2) == pytest.approx(87)
    assert expect(g**4) / 87**2 - 3 == pytest.approx(benchmark_task.EXCESS)


def test_a_wrong_rival_is_refused(run_main, monkeypatch):
    """A contender with variances that are 10 % too large."""

    def wrong(n):
        job = benchmark_rivals.numpy_threads(n)

        def biased(replicates, seed):
            got = job(replicates, seed)
            return got._replace(variance=tuple(1.1 * v for v in got.variance))

        return biased

    monkeypatch.setitem(CONTENDERS, "numpy threads", wrong)
    monkeypatch.setitem(CONTENDERS, "rgrad", benchmark_rivals.numpy_threads)
    with pytest.raises(WrongResult, match="numpy threads, score function, N = 10, "):
        run_main(BenchmarkSettings, run, *SMALL, "numpy threads", "--num-samples", 10, "--out", "new")
    ends = np.full((2, 100), 3.0), np.full((2, 100), 2.0)
    check_fits("rival", ends)
    with pytest.raises(WrongResult, match="rival: the fits end at sigma"):
        check_fits("rival", (ends[0], 1.1 * ends[1]))


def test_missing_contenders_are_left_out_with_the_reason(run_main, monkeypatch):
    def no_compiler():
        benchmark_c.compiled.cache_clear()
        monkeypatch.setattr(shutil, "which", lambda name: None)
        return benchmark_c.compiled()

    def absent(n):
        raise Missing("torch is not installed")

    assert no_compiler() == (None, "there is no C compiler (cc)")
    monkeypatch.setitem(CONTENDERS, "torch eager", absent)
    monkeypatch.setitem(CONTENDERS, "rgrad", benchmark_rivals.numpy_threads)
    status, out, _ = run_main(BenchmarkSettings, run, *SMALL, "torch eager", "C", "--num-samples", 10, "--out", "a")
    benchmark_c.compiled.cache_clear()
    assert status == 0
    assert "left out: torch eager: torch is not installed\n" in out
    assert "left out: C: there is no C compiler (cc)\n" in out


def test_a_compiler_that_fails_says_why(monkeypatch):
    benchmark_c.compiled.cache_clear()
    monkeypatch.setattr(benchmark_c, "SOURCE", "no C")
    function, why = benchmark_c.compiled()
    benchmark_c.compiled.cache_clear()
    assert function is None
    assert "failed: " in why or "no C compiler" in why


def test_growth_and_fresh_processes(capsys, monkeypatch):
    monkeypatch.setitem(CONTENDERS, "rgrad", benchmark_rivals.numpy_threads)
    benchmark_processes.grow(0, 2, 100_000, 200_000)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(line["seconds"]) for line in lines] == [2, 2]
    assert all(line["megabytes"] >= 0 for line in lines)
    assert benchmark_processes.child("import os; print(os.environ['HERE'])", HERE="3") == [3]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        benchmark_processes.child("1/0")


@pytest.mark.long
def test_growth_and_cold_start(run_main):
    """Memory grows by at most 20 MB, and rgrad has a result."""
    flags = ("--sections", "growth", "cold", "--growth", 1_000_000, 100_000_000, "--rounds", 1, "--out", "a")
    status, out, err = run_main(BenchmarkSettings, run, *flags)
    assert (status, err) == (0, "")
    rows = json.loads(Path("a/result.json").read_text())["rows"]
    assert [r["n"] for r in rows if r["section"] == "growth"] == [1_000_000, 100_000_000]
    assert all(r["megabytes"] <= 20 for r in rows if r["section"] == "growth")
    assert "first result, programs kept" in out


def test_the_list_of_rivals_is_complete():
    """The list exists twice, because `--help` does not import jax."""
    assert {"rgrad", *Rival.__args__} == set(CONTENDERS)
    assert BenchmarkSettings().rivals == Rival.__args__


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sections", "speed"], "--sections"),
        (["--sections"], "--sections: nothing is given"),
        (["--sections", "fit", "fit"], "has a duplicate"),
        (["--rivals", "torch"], "--rivals"),
        (["--num-samples", 0], "--num-samples: input should be greater than or equal to 1, not 0"),
        (["--growth", 10], "--growth: input should be greater than or equal to 100000, not 10"),
        (["--dimensions", 0], "--dimensions: input should be greater than or equal to 1"),
        (["--steps", 5], "--steps: input should be greater than or equal to 200, not 5"),
        (["--fits", 1], "--fits: input should be greater than or equal to 10"),
        (["--precision", 10], "--precision: input should be greater than or equal to 1000"),
        (["--rounds", 0], "--rounds: input should be greater than or equal to 1"),
        (["--seconds", 0], "--seconds: input should be greater than 0"),
        (["--seconds", "nan"], "--seconds"),
        (["--seed", -1], "--seed: input should be greater than or equal to 0"),
        (["--float-width", 64], "--float-width 64: the contenders support only 32 bits; leave it out"),
        (["--out", os.devnull], f"--out {os.devnull}: this is a file"),
    ],
)
def test_bad_input(flags, message, run_main):
    out_flags = () if "--out" in flags else ("--out", "new")
    status, out, err = run_main(BenchmarkSettings, run, *out_flags, *flags)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert (err.count("\n"), out) == (1, "")
    assert not Path("new").exists()


def raw_gpu(**changes):
    """A report of `.ci/gpu` with the parts that the table needs."""
    rates = {10: 9.5e10, 100: 1.27e11, 1_000: 1.6e11, 100_000: 1.64e11}
    best = lambda kind, times: {f"{n} {kind}": {"rate": rate * times, "how": "somehow"} for n, rate in rates.items()}
    part = lambda **values: {"state": "ok", "title": "", "checks": {}, "rows": {}, "notes": {}} | values
    parts = {
        "a1": part(
            notes={"device": {"kind": "NVIDIA H100", "memory": {}}, "versions": {"jax": "0.11", "torch": "2.11"}}
        ),
        "b1": part(title="the post's problem", checks={"n = 1": {"ok": True}, "n = 10": {"ok": False}}),
        "d1": part(device="gpu", rows={f"n = {n}, as it chooses": {"rate": rate} for n, rate in rates.items()}),
        "d2": part(rows={"somehow": {"rate": 1.0}}, notes={"best": best("scan", 0.5)}),
        "d3": part(notes={"best": best("eager", 0.1) | {"10 compiled": {"rate": 2e11, "how": "by hand"}}}),
    }
    return {"kind": "rgrad .ci/gpu", "started": "2026-01-02T03:04:05Z", "rehearsal": False, "parts": parts} | changes


@pytest.fixture
def readme_copy(tmp_path, monkeypatch):
    """The README of the experiment, in a folder that a test may change."""
    from experiments.common import readme

    folder = tmp_path / "copy" / "benchmark"
    folder.mkdir(parents=True)
    for name in ("README.md", "gpu.json"):
        shutil.copy(readme.HOME / "benchmark" / name, folder)
    monkeypatch.setattr(readme, "HOME", folder.parent)
    return folder


def test_read_writes_the_table_of_a_run_on_a_gpu(run_main, readme_copy):
    Path("raw.json").write_text(json.dumps(raw_gpu()))
    before = (readme_copy / "README.md").read_text()
    status, out, err = run_main(BenchmarkSettings, run, "--read", "raw.json")
    assert (status, err) == (0, "")
    assert f"written to {readme_copy}/: gpu.json, README.md" in out
    after = (readme_copy / "README.md").read_text()
    assert "| NVIDIA H100, jax 0.11, PyTorch 2.11 | n = 10 | n = 100 | n = 1,000 | n = 100,000 |" in after
    assert "| `rgrad.measure` | 95 | 127 | 160 | 164 |" in after
    assert "| stock JAX, streamed by `lax.scan` | 48 | 64 | 80 | 82 |" in after
    assert "| PyTorch, compiled | 200 |  |  |  |" in after
    changed = [a for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert all(line.startswith("|") for line in changed)
    record = json.loads((readme_copy / "gpu.json").read_text())
    assert record["about"].startswith("One NVIDIA H100, 2026-01-02.")
    assert record["checks"] == {"b1": {"title": "the post's problem", "right": 1, "of": 2}}
    assert record["measure"]["N = 1000, as it chooses"] == 1.6e11
    # What was written can be read, and nothing changes.
    assert run_main(BenchmarkSettings, run, "--read", readme_copy / "gpu.json")[0] == 0
    assert json.loads((readme_copy / "gpu.json").read_text()) == record
    assert (readme_copy / "README.md").read_text() == after


def test_the_committed_record_of_a_gpu_is_that_of_the_readme(run_main, readme_copy):
    before = {name: (readme_copy / name).read_bytes() for name in ("README.md", "gpu.json")}
    assert run_main(BenchmarkSettings, run, "--read", readme_copy / "gpu.json")[0] == 0
    assert {name: (readme_copy / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory; give the gpu.json that .ci/gpu has written"),
        ("{", "not JSON: Expecting property name"),
        ("[1]", "this is not a result of .ci/gpu; give the gpu.json"),
        (json.dumps({"experiment": "benchmark", "rows": []}), "this is not a result of .ci/gpu"),
        (json.dumps(raw_gpu(rehearsal=True)), "this is a rehearsal on the CPU; run .ci/gpu on a GPU"),
        (json.dumps(raw_gpu(parts={})), "it has no results of a1 and d1 and d2; run .ci/gpu --parts a,d"),
        (json.dumps(raw_gpu()).replace('"device": "gpu"', '"device": "cpu"'), "it was not measured on a GPU"),
    ],
)
def test_a_file_that_is_not_a_record_of_a_gpu_is_refused(run_main, readme_copy, content, message):
    before = (readme_copy / "README.md").read_bytes()
    if content is not None:
        Path("raw.json").write_text(content)
    status, out, err = run_main(BenchmarkSettings, run, "--read", "raw.json")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: --read raw.json: {message}")
    assert err.count("\n") == 1
    assert (readme_copy / "README.md").read_bytes() == before


def test_a_step_is_that_of_the_loss_written_by_hand(monkeypatch):
    """The mean losses of ten steps, within 8 standard errors, in the section's own check. One with a wrong factor fails."""
    task = steps.bits("leave_one_out")._replace(steps=40)
    programs = {name: steps.compiled_steps(task, loss) for name, loss in task.losses.items()}
    losses = {name: run(task.params, jax.random.key(0)) for name, run in programs.items()}
    steps.check(losses, task.name)
    with pytest.raises(WrongResult, match="the loss of by hand ends at"):
        steps.check({**losses, "by hand": 1.02 * losses["by hand"]}, task.name)


def test_the_same_estimators_written_by_hand():
    """The mean gradients of 400 calls, within 8 standard errors, in the section's own check. A wrong sign fails."""
    name = "disarm"
    losses = {"rgrad": lambda t, key: compilation.ours(name, t, key), name: compilation.TASKS[name].by_hand}
    programs = {who: compilation.compiled_gradient(loss) for who, loss in losses.items()}
    compilation.check(programs, name)
    wrong = {**programs, name: lambda t, key: -programs[name](t, key)}
    with pytest.raises(WrongResult, match=r"disarm: mean gradient -.* by hand"):
        compilation.check(wrong, name)


@pytest.mark.long
@pytest.mark.parametrize("name", compilation.TASKS)
def test_every_estimator_written_by_hand(name):
    losses = {"rgrad": lambda t, key: compilation.ours(name, t, key), name: compilation.TASKS[name].by_hand}
    compilation.check({who: compilation.compiled_gradient(loss) for who, loss in losses.items()}, name)


def test_peers_in_their_own_processes(tmp_path):
    """Each library has the right mean and variance. One that is absent says so; a wrong one is refused."""
    with peers.Peer("optax.perturbations", "normal", (sys.executable,)) as peer:
        assert peer.rate(0) > 0
    with pytest.raises(Missing, match="continuous noise only"):
        peers.Peer("optax.perturbations", "bits", (sys.executable,))
    with pytest.raises(WrongResult, match=r"mine, normal: mean 4.5 .*expected 4 and 0.087"):
        peers.check("mine", "normal", 4.5, 0.087)
    with pytest.raises(WrongResult, match=r"variance 0\.9 per call"):
        peers.check("mine", "normal", 4.0, 0.9)
    (tmp_path / "python").write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(Missing, match="no such thing"):
        peers.Peer("rgrad", "normal", (str(tmp_path / "python"),))


@pytest.mark.long
@pytest.mark.parametrize("section", ["steps", "compile", "calls", "peers", "measuring"])
def test_the_sections_of_real_work(run_main, section):
    status, _, _ = run_main(BenchmarkSettings, run, "--sections", section, "--rounds", 1, "--out", "new")
    assert status == 0
    rows = json.loads(Path("new/result.json").read_text())["rows"]
    assert all(r["section"] == section and r["times"] > 0 for r in rows)
