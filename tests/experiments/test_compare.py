"""`python -m experiments.compare` on a file of the user, and bad input."""

import json
from pathlib import Path

import pytest

from experiments.common.loading import expanded
from experiments.compare import CompareSettings, run
from experiments.compare.experiment import plan
from rgrad.comparison.contenders import COMPARED as ESTIMATORS

MINE = """
import jax.numpy as jnp, numpyro.distributions as dist

class step:
    params = {"loc": 0.3, "scale": 1.0}
    wrt = ("loc",)
    def distribution(p): return dist.Normal(p["loc"], p["scale"])
    def objective(p, x): return jnp.where(x > 0, 1.0, 0.0)

class logarithm(step):
    def objective(p, x): return jnp.log(x)

def tenth(f, q, key, n): return 0.1 * q.rsample(key, (n,))
"""
ROW = ("estimator", "parameter", "mean", "standard_error", "variance", "variance_low", "variance_high", "seconds",
       "operations", "efficiency", "biased", "recommended")  # fmt: skip
SMALL = ("--cost", "operations", "--budget", 0.05, "--estimators", "reparameterized", "score_function+leave_one_out")


def test_a_users_file(run_main, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    status, out, err = run_main(
        CompareSettings, run, "--problem", "mine.py:step", *SMALL, "mine.py:tenth", "arm", "--out", "a"
    )
    assert (status, err) == (0, "")
    rows = json.loads(Path("a/result.json").read_text())["rows"]
    assert all(tuple(row)[:12] == ROW for row in rows)
    at = {row["estimator"]: row for row in rows}
    assert [at[name]["biased"] for name in ("reparameterized", "score_function+leave_one_out", "mine.py:tenth")] == [True, False, True]  # fmt: skip
    assert at["score_function+leave_one_out"]["recommended"]
    assert "Use score_function+leave_one_out" in out
    assert "jumps by 1" in out
    assert "left out: arm" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", 0], "--budget: input should be greater than 0"),
        (["--budget", "inf"], "--budget: input should be a finite number"),
        (["--cost", "money"], "--cost"),
        (["--num-samples", 0], "--num-samples: input should be greater than or equal to 1"),
        (["--estimators", "arn"], "--estimators arn: unknown name; did you mean 'arm'?"),
        (["--estimators", "arm"], "no estimator applies; arm: q must be a Bernoulli"),
        (["--wrt", "lok"], "unknown parameter 'lok'"),
        (["--params", "scale=-1"], "not allowed"),
        (["--problem", "sin"], "did you mean 'sine'?"),
        (["--problem", "mine.py:logarithm"], "objective is nan or infinite for"),
    ],
)
def test_bad_input(flags, message, run_main, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    status, out, err = run_main(CompareSettings, run, *flags, "--out", "new")
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert (err.count("\n"), out) == (1, "")
    assert not Path("new").exists()


def test_the_list_of_estimators_is_that_of_the_library():
    """The list exists twice, because `--help` does not import jax."""
    assert expanded(CompareSettings().estimators) == tuple(ESTIMATORS)


def test_the_plan_names_both_times():
    """The progress bar says before anything is compiled that the budget does not include compiling."""
    assert plan(CompareSettings()) == "compiling (1 to 10 s for each estimator), then measuring (10 s)"
    assert plan(CompareSettings(cost="operations", budget=0.5)).endswith("then measuring (0.5 x 1e9 operations)")
