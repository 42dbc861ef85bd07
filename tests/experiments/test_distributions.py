"""The distribution table: its truths, its verdicts on right and wrong estimators, and that no estimator is wrong."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from experiments import distributions
from experiments.common import readme
from experiments.distributions import study as distributions_task
from experiments.distributions.study import ESTIMATORS, cells
from experiments.distributions.table import Row, rows
from experiments.distributions.truth import INF, gradient, integral, total


@pytest.fixture(scope="module")
def table():
    with jax.enable_x64(True):
        return {row.name: row for row in rows()}


def test_it_has_every_class_of_numpyro(table):
    """Except those that cannot be sampled, have no parameter to differentiate, or are abstract."""
    assert len(table) >= 113
    assert len(ESTIMATORS) == 13
    without = {"Distribution", "ExpandedDistribution", "Independent", "ImproperUniform", "Unit", "TruncatedPolyaGamma",
               "GaussianCopula", "IntervalCensoredDistribution"}  # fmt: skip
    classes = {
        name for name in dir(dist) if isinstance(of := getattr(dist, name), type) and issubclass(of, dist.Distribution)
    }
    assert classes - without - {name.split("(")[0] for name in table} == set()


def test_truths_are_those_of_closed_forms(x64):
    """For a normal, an exponential with a moving end, a Gamma with a pole at 0, and a Poisson."""
    normal = integral(lambda t: dist.Normal(t[0], t[1]), lambda x: x**2, (-INF, 0.0, INF))
    np.testing.assert_allclose(gradient(normal, (0.3, 0.8)), (0.6, 1.6), rtol=1e-9)
    uniform = integral(lambda t: dist.Uniform(0.0, t[0]), lambda x: x, lambda t: (0.0, t[0]))
    np.testing.assert_allclose(gradient(uniform, (1.5,)), [0.5], rtol=1e-9)
    gamma = integral(lambda t: dist.Gamma(t[0], t[1] * jnp.array([1.0, 2.0])), lambda x: x, (0.0, 1.0, INF))
    np.testing.assert_allclose(gradient(gamma, (0.5, 1.0)), (0.75, -0.375), rtol=1e-8)  # (1 - 1/4) a / b
    poisson = total(lambda t: dist.Poisson(t[0]), lambda x: x**2)
    np.testing.assert_allclose(gradient(poisson, (2.0,)), [5.0], rtol=1e-9)
    with pytest.raises(ArithmeticError, match="integrates to"):
        integral(lambda t: dist.Normal(t[0], 1.0).mask(False), lambda x: x, (-INF, 0.0, INF))(np.zeros(1))


def test_verdicts_on_right_and_wrong_estimators(monkeypatch, table):
    half = lambda f, q, key, n: rgrad.reparameterized(f, q, key, n) * 0.9
    nameless = lambda f, q, key, n: [][1]
    chosen = {"right": rgrad.reparameterized, "off": half, "broken": nameless, "disarm": rgrad.disarm}
    monkeypatch.setattr(distributions_task, "ESTIMATORS", chosen)
    found = {cell.estimator: cell for cell in cells(table["Normal(loc, scale)"], 20, 2_000)}
    verdicts = {name: cell.verdict for name, cell in found.items()}
    assert verdicts == {"right": "ok", "off": "WRONG", "broken": "CRASHED", "disarm": "refused"}
    assert "Normal" in found["disarm"].detail


def test_the_command(run_main, tmp_path, monkeypatch):
    (tmp_path / "distributions").mkdir()
    copied = Path(shutil.copy(readme.readme_of("distributions"), tmp_path / "distributions"))
    monkeypatch.setattr(readme, "HOME", tmp_path)
    flags = ("--only", "GeometricProbs", "--num-samples", "4", "--replicates", "1000", "--out", "here", "--readme")
    status, out, _ = run_main(distributions.DistributionsSettings, distributions.run, *flags)
    assert status == 0
    assert "1 distributions, 13 cells: 9 refused, " in out
    assert "| refused | raises an error that names the distribution | 9 |" in copied.read_text()


def test_a_name_that_is_not_there(run_main):
    status, _, err = run_main(distributions.DistributionsSettings, distributions.run, "--only", "Normall")
    assert status == 2
    assert "no distribution has this in its name" in err


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_no_estimator_is_wrong_for_any_distribution(run_main):
    """2,046 cells, 6.5 standard errors each. For normal means, a run has a false alarm with probability 1e-6."""
    status, out, _ = run_main(distributions.DistributionsSettings, distributions.run, "--out", "here")
    assert status == 0, out


def test_a_wrong_truth_is_reported():
    unnormalised = integral(lambda t: dist.Normal(t[0], 1.0).mask(False), lambda x: x, (-INF, 0.0, INF))
    row = Row("Normal(masked)", lambda t: dist.Normal(t[0], 1.0).mask(False), (0.0,), lambda x: x, unnormalised)
    (cell,) = cells(row, 2, 100)
    assert (cell.estimator, cell.verdict) == ("truth", "CRASHED")
