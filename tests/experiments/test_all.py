"""Every experiment on its small config, the files it writes, and bad input, which gives one line and exit status 2."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from numpyro.distributions.distribution import validation_enabled

from experiments.common import readme
from experiments.common.loading import ESTIMATORS
from experiments.common.measuring import ProblemTask
from experiments.common.problems import PROBLEMS
from experiments.common.settings import read_toml
from experiments.variance import VarianceSettings
from rgrad.backend.compiling import IN_CACHE
from rgrad.measurement.batches import batch_for
from rgrad.measurement.streaming import program_of_one_core
from rgrad.problems import point_of
from tests.experiments.conftest import EXPERIMENTS, load

ROOT = Path(__file__).parent.parent.parent
FILES = {"figure.png", "figure.svg", "result.json", "table.csv"}
MORE_FILES = {
    "audit": {"cuts.csv"},
    "crossover": {"checks.csv"},
    "fit": {"trace.csv"},
    "policy": {"curves.csv"},
    "svi": {"curves.csv", "posterior.csv"},
    "sweep": {"plan.json", "chunks", "table.parquet", ".lock-0"},
    "logistic": {"curves.csv", "posterior.csv", "states.npz"},
    "vae": {"margins.csv", "pictures.npz", "checkpoints"},
}
ROW = ("estimator", "parameter", "n", "replicates", "mean", "standard_error", "variance", "variance_low",
       "variance_high", "exact_mean", "exact_variance")  # fmt: skip


def test_validation_is_a_context():
    with validation_enabled():  # what `experiments.common.measuring` relies on
        pass


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_small_config(name, small_run):
    status, out, err, folder = small_run(name)
    assert (status, err) == (0, "")
    assert {p.name for p in folder.iterdir()} == FILES | MORE_FILES.get(name, set())
    result = json.loads((folder / "result.json").read_text())
    assert [key for key in result if key != "speed"] == ["experiment", "config", "provenance", "rows"]
    assert result["experiment"] == name
    assert {"command", "seed", "versions", "device", "float_width", "commit", "dirty"} <= set(result["provenance"])
    rows = list(csv.DictReader((folder / "table.csv").open()))
    if name != "sweep":  # its table may be too large for JSON, so result.json has a summary
        assert [list(row) for row in rows] == [list(row) for row in result["rows"]]
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figure.svg").read_bytes().startswith(b"<?xml")
    assert f"written to {folder}/" in out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_rewrites_the_tables_and_the_picture_of_its_readme(name, small_run):
    """Every marked table of the README is written, all its rows are as wide as its header, and nothing else changes."""
    _, out, _, folder = small_run(name)
    before, after = ((home / name / "README.md").read_text() for home in (readme.HOME, folder.parent))
    assert readme.names_of_tables(before) == readme.names_of_tables(after)
    empty = lambda text: readme.with_tables(text, dict.fromkeys(readme.names_of_tables(text), ""))
    assert empty(before) == empty(after)
    old, new = (
        dict(re.findall(r"<!-- table: ([\w-]+) -->\n(.*?)\n?<!-- end -->", text, re.S)) for text in (before, after)
    )
    # The small run does not measure these. (`factors` are the same for all settings.)
    untouched = {"benchmark": {"gpu", "sweep", "svi", "measuring"}, "policy": {"grid", "cartpole", "factors"}}
    assert {table for table in new if new[table] == old[table]} == untouched.get(name, set())
    for table in new.values():
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len(lines) >= 2
        assert len({re.sub(r"\\\|", "", line).count("|") for line in lines}) == 1
    assert f"written to {folder.parent / name}/: README.md" in out
    if "](figure.png)" in before:
        assert (folder.parent / name / "figure.png").read_bytes() == (folder / "figure.png").read_bytes()
    assert "readme" not in json.loads((folder / "result.json").read_text())["config"]


def test_readme_without_a_checkout_is_refused_before_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "HOME", tmp_path)
    status, out, err = run("variance", "--readme", "--out", "a")
    assert (status, out) == (2, "")
    assert "there is no file" in err
    assert not Path("a").exists()


def test_variance_rows_agree_with_the_truth(small_run):
    """All twelve measured means and variances are within 6 standard errors. False failures: about 1e-6 together, because
    of the tails of the score function at n = 10. Catches a variance off by 15 % (reparameterized) to 50 % (score function, n = 10)."""
    rows = json.loads((small_run("variance")[3] / "result.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * 3
    assert all(tuple(row) == ROW for row in rows)
    for row in rows:
        half = (row["variance_high"] - row["variance_low"]) / 2 / 1.96
        assert abs(row["mean"] - row["exact_mean"]) <= 6 * row["standard_error"]
        assert abs(row["variance"] - row["exact_variance"]) <= 6 * half
        assert half < 0.08 * row["variance"]
    exact = {(r["estimator"], r["parameter"]): r["exact_variance"] for r in rows if r["n"] == 100}
    assert exact["score_function", "loc"] == pytest.approx(0.87)
    assert exact["reparameterized", "loc"] == pytest.approx(0.04)


def test_the_default_config_file_says_the_defaults():
    for name in EXPERIMENTS:
        model, _ = load(name)
        said = read_toml(str(ROOT / "configs" / f"{name}.toml"), model)
        assert model(**said) == model()
        none = {key for key, field in model.model_fields.items() if field.default is None}  # TOML cannot express None
        assert set(said) == set(model.model_fields) - none - {"readme"}


def test_a_users_problem_and_estimator(run):
    flags = ("--num-samples", 10, "--replicates", 2000, "--seed", 3)
    status, _, _ = run("variance", "--problem", "mine:problem", "--estimators", "mine.py:estimator", "score_function",
                         "--params", "loc=1,-1e-3", "--wrt", "loc", *flags, "--out", "a")  # fmt: skip
    assert status == 0
    result = json.loads(Path("a/result.json").read_text())
    assert [r["parameter"] for r in result["rows"]] == ["loc[0]", "loc[0]", "loc[1]", "loc[1]"]
    assert result["config"]["params"] == {"loc": [1.0, -0.001]}
    for row in result["rows"]:
        assert row["exact_variance"] is not None
        assert abs(row["mean"] - row["exact_mean"]) < 6 * row["standard_error"]


def test_flags_override_the_file_name_by_name(run):
    Path("my.toml").write_text(
        'estimators = ["reparameterized"]\nwrt = ["loc"]\nnum_samples = [10]\nreplicates = 100\n[params]\nloc = 3\nscale = 2\n'
    )
    assert run("variance", "--config", "my.toml", "--params", "scale=0.5", "--num-samples", 20, "--out", "a")[0] == 0
    config = json.loads(Path("a/result.json").read_text())["config"]
    assert config["params"] == {"loc": 3.0, "scale": 0.5}
    assert (config["num_samples"], config["replicates"]) == ([20], 100)
    # With another problem, `params` and `wrt` of the file are ignored.
    assert run("variance", "--config=my.toml", "--problem", "sine", "--out", "b")[0] == 0
    assert json.loads(Path("b/result.json").read_text())["config"]["params"] == {}


def test_the_same_seed_gives_the_same_table(run):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        flags = ("--estimators", "score_function", "--num-samples", 10, "--replicates", 500, "--float-width", 64)
        assert run("variance", *flags, "--seed", seed, "--out", folder)[0] == 0
    assert Path("a/table.csv").read_bytes() == Path("b/table.csv").read_bytes() != Path("c/table.csv").read_bytes()
    assert Path("a/figure.svg").read_bytes() == Path("b/figure.svg").read_bytes()


def test_what_is_not_known_is_null_and_few_replicates_are_marked(run):
    status, out, _ = run("variance", "--problem", "bernoulli", "--estimators", "score_function", "--num-samples", 2,
                         "--replicates", 20, "--out", "a")  # fmt: skip
    assert status == 0
    assert "~[" in out
    assert "covers less than 95 %" in out
    status, out, _ = run("variance", "--problem", "mine:three", "--estimators", "reparameterized", "--num-samples", 5,
                         "--replicates", 1000, "--out", "b")  # fmt: skip
    assert json.loads(Path("b/result.json").read_text())["rows"][0]["exact_variance"] is None
    assert "unknown: " in out


@pytest.mark.long
def test_all_estimators_in_one_table(run):
    """Every estimator that applies, and a reason for each that does not. The means are 4 within 6 standard errors (1e-7 for all)."""
    from experiments.common.loading import ESTIMATORS

    status, out, _ = run("variance", "--estimators", "all", "--num-samples", 10, "--replicates", 2000, "--out", "a")
    assert status == 0
    rows = json.loads(Path("a/result.json").read_text())["rows"]
    discrete = {
        "enumerated", "arm", "disarm", "rebar", "gumbel_softmax", "straight_through", "go", "unordered", "reinmax",
        "gumbel_rao",
    }  # fmt: skip
    assert {r["estimator"] for r in rows} == set(ESTIMATORS) - {"rejection"} - discrete
    assert "left out: rejection with n = 10: rejection has no sampler for Normal" in out
    assert all(abs(r["mean"] - 4) <= 6 * r["standard_error"] + 1e-5 for r in rows)


@pytest.mark.long
def test_all_estimators_of_a_discrete_problem(run):
    status, out, _ = run("variance", "--estimators", "all", "--problem", "bernoulli", "--num-samples", 5,
                         "--replicates", 1000, "--out", "b")  # fmt: skip
    assert status == 0
    assert "left out: reparameterized with n = 5: reparameterized needs q.rsample, and Bernoulli has none" in out
    assert "left out: score_function+antithetic with n = 5: antithetic: n = 5 is odd" in out
    rows = json.loads(Path("b/result.json").read_text())["rows"]
    assert {"score_function+optimal", "score_function+stratified", "measure_valued"} < {r["estimator"] for r in rows}


BAD = [
    (["--config", "bad.toml"], "unknown key 'num_sample'; did you mean 'num_samples'?"),
    (["--config", "no.toml"], "No such file or directory"),
    (["--config"], "a value is missing"),
    (["--config", "broken.toml"], "not TOML"),
    (["--num-sample", "3"], "unknown flag --num-sample; did you mean '--num-samples'?"),
    (["--num-samples", "0"], "--num-samples: input should be greater than or equal to 1, not 0"),
    (["--num-samples"], "--num-samples: nothing is given"),
    (["--num-samples", "10", "10"], "has a duplicate"),
    (["--num-samples", "1"], "leave_one_out: n = 1 leaves no other sample"),
    (["--replicates", "1"], "--replicates: input should be greater than or equal to 2"),
    (["--replicates", "x"], "--replicates: 'x' cannot be parsed; expected: Independent estimates"),
    (["--num-samples", "10", "ten"], "--num-samples: '10 ten' cannot be parsed"),
    (["--config", "typed.toml"], "--config typed.toml: num_samples: "),
    (["--problem", "mine.py"], "write mine.py:NAME"),
    (["--problem", "mine:selfish"], "its functions must not take self"),
    (["--float-width", "16"], "use 32 or 64"),
    (
        ["--platform", "gpu"],
        "--platform gpu: jax found only cpu; pip install -e '.[cuda13]' for an NVIDIA GPU, or leave it out",
    ),
    (["--params", "scale=0"], "Normal got scale = 0.0, which is not allowed (constraint: Positive)"),
    (["--params", "scale=-1"], "not allowed"),
    (["--params", "scale=nan"], "scale = nan is not finite"),
    (["--params", "scale=1e99999"], "scale = inf is not finite"),
    (["--params", "scal=1"], "unknown parameter 'scal'; this problem has loc, scale"),
    (["--params", "loc"], "write e.g. loc=3"),
    (["--params", "loc=a"], "'a' is not a number"),
    (["--params", "loc=1,2"], "(--params loc has another shape than the default)"),
    (["--wrt", "scal"], "unknown parameter 'scal'; this problem has loc, scale"),
    (["--problem", "squar"], "did you mean 'square'?"),
    (["--problem", "nowhere:problem"], "no module 'nowhere'"),
    (["--problem", "nowhere.py:problem"], "no file nowhere.py"),
    (["--problem", "mine:problen"], "did you mean 'problem'?"),
    (["--problem", "broken:problem"], "the import raised SyntaxError"),
    (["--problem", "mine:incomplete"], "it has no 'distribution'"),
    (["--problem", "mine:vector"], "f must return a scalar for one sample, got shape (2,)"),
    (["--problem", "mine:logarithm"], "objective is nan or infinite for 228 of 10,000 draws"),
    (["--problem", "mine:root"], "nan or infinite in "),
    (["--problem", "mine:batch"], ".to_event(1)"),
    (["--problem", "mine:integer"], "parameter loc = 2 is an integer and has no derivative"),
    (["--problem", "mine:typo"], "KeyError: 'lok' (mine.py, line 34)"),
    (["--problem", "mine:uniform", "--estimators", "score_function"], "the support of Uniform depends"),
    (["--problem", "bernoulli"], "reparameterized needs q.rsample, and Bernoulli has none; use score_function"),
    (["--estimators", "reparametrized"], "did you mean 'reparameterized'?"),
    (["--estimators", "mine:no_estimator"], "must return terms of shape (10,)"),
    (["--estimators", "mine:MISSING"], "mine has no 'MISSING'"),
    (["--out", "mine.py/x"], "--out mine.py/x: Not a directory"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input(flags, message, run, tmp_path):
    Path("bad.toml").write_text("num_sample = [10]\n")
    Path("typed.toml").write_text('num_samples = "ten"\n')
    Path("broken.toml").write_text("num_samples = [10\n")
    Path("broken.py").write_text("problem = (\n")
    before = sorted(tmp_path.iterdir())
    defaults = ["--num-samples", "10", "--replicates", "1000", "--out", "new/deep"]
    kept = [a for i in range(0, 6, 2) if defaults[i] not in flags for a in defaults[i : i + 2]]
    status, out, err = run("variance", *kept, *flags)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(p for p in tmp_path.iterdir() if p.name != "__pycache__") == before


def start_command(*flags, cwd):
    # Without the tests' compilation cache: reading it may print warnings of its own.
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"} | {
        "PYTHONPATH": str(ROOT)
    }
    command = [sys.executable, "-m", "experiments.variance", *flags]
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("signum", "wanted"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_an_interrupt_leaves_nothing(tmp_path, signum, wanted):
    process = start_command("--num-samples", "100000", "--replicates", "1000000", "--out", "new/deep", cwd=tmp_path)
    while process.poll() is None and not (tmp_path / "new" / "deep").exists():
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (wanted, "", "interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_jax(tmp_path):
    code = "import sys; sys.argv = ['x', '--help']\ntry:\n    import runpy; runpy.run_module('experiments.variance', run_name='__main__', alter_sys=True)\nexcept SystemExit as e:\n    assert e.code == 0\nassert not {'jax', 'numpyro', 'matplotlib', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("--params NAME=VALUE", "--estimators", "--config", "--wrt"):
        assert name in done.stdout


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it reads the program for CPU")
def test_the_operations_of_the_main_job():
    """The program of three estimators has one stream of noise for all, and one square root for every two draws.

    It also has few operations: 134 per draw, with the moments, when this was written. The bits of jax.random take 200.
    """
    estimators = {name: ESTIMATORS[name] for name in VarianceSettings().estimators}
    task = ProblemTask("square", PROBLEMS["square"], point_of(PROBLEMS["square"]), ("loc",), estimators)
    key, draw = jax.random.key(0), task.gradients(1_000)
    batch = batch_for(draw, key, IN_CACHE)
    program = program_of_one_core(draw, key, batch)
    draws = batch * 1_000  # of one iteration of its loop
    assert len(re.findall(r"c64\[\S* conditional\(", program.as_text())) == 1
    assert program.cost_analysis()["flops"] <= 150 * draws
    assert program.cost_analysis()["transcendentals"] <= 0.6 * draws


def test_one_compilation_for_each_size_and_none_repeated(tmp_path):
    """Counts the compilations of the measuring program in a fresh process, for any number of replicates."""
    code = (
        "import sys, jax, collections\n"
        "seen = collections.Counter()\n"
        "from rgrad.measurement import streaming\n"
        "import logging\n"
        "class Count(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        text = record.getMessage()\n"
        "        if 'Finished XLA compilation of jit(_power_sums)' in text: seen['compiled'] += 1\n"
        "jax.config.update('jax_log_compiles', True)\n"
        "logging.getLogger('jax').addHandler(Count()); logging.getLogger('jax').propagate = False\n"
        "from experiments.variance import VarianceSettings, run\n"
        "from experiments.common.runner import main\n"
        "assert main(VarianceSettings, run, ['--num-samples', '1000', '4000', '--replicates', '40000', '--out', 'o']) == 0\n"
        "assert seen['compiled'] == 2, seen\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert VarianceSettings(out="~/results").out == str(tmp_path / "results")


def test_a_bug_is_one_line_and_a_file(tmp_path):
    """An unexpected exception: exit status 70, one line on the screen, and the traceback in a file."""
    code = (
        "import sys\n"
        "from experiments.common import runner\n"
        "from experiments.variance import VarianceSettings\n"
        "def run(settings): raise KeyError('planted')\n"
        "run.__module__ = 'experiments.variance'\n"
        "sys.argv = ['variance']\n"
        "runner.command(VarianceSettings, run)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (70, "", 1)
    assert done.stderr.startswith("error: this is a bug: KeyError: 'planted'; please report it with the traceback")
    (report,) = tmp_path.glob("rgrad-bug-*.txt")
    assert str(report) in done.stderr
    assert "in run" in report.read_text()
