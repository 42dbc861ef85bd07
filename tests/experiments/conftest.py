"""The fixture `run`: runs an experiment in a folder that contains only `mine.py`."""

import importlib
import sys

import pytest

EXPERIMENTS = ("variance", "fit", "discrete", "published", "bounds", "vae", "crossover", "logistic", "elbo", "svi", "network", "compare",
               "sweep", "audit", "benchmark", "policy")  # fmt: skip

MINE = """
import jax, jax.numpy as jnp, numpyro.distributions as dist

class problem:
    params = {"loc": jnp.array([1.0, 2.0]), "scale": 0.5}
    def distribution(p): return dist.Normal(p["loc"], p["scale"]).to_event(1)
    def objective(p, x): return jnp.sum(x**2)

class three(problem):
    params = {"loc": jnp.array([1.0, 2.0, 3.0]), "scale": 0.5}

class vector(problem):
    def objective(p, x): return x**2

class logarithm(problem):
    def objective(p, x): return jnp.log(x[0])

class root(problem):
    def objective(p, x): return jnp.sqrt(jnp.maximum(x[0] - 1, 0.0))

class batch(problem):
    def distribution(p): return dist.Normal(p["loc"], p["scale"])

class integer(problem):
    params = {"loc": 2, "scale": 1.0}
    def distribution(p): return dist.Normal(p["loc"], p["scale"])

class uniform:
    params = {"high": 2.0}
    def distribution(p): return dist.Uniform(0.0, p["high"])
    def objective(p, x): return x

class typo(problem):
    def objective(p, x): return p["lok"] * x[0]

class selfish(problem):
    def distribution(self, p): return None

class incomplete:
    params = {"loc": 1.0}

def estimator(f, q, key, n): return jax.vmap(f)(q.rsample(key, (n,)))
def no_estimator(f, q, key, n): return 1.0
"""


def load(name):
    module = importlib.import_module(f"experiments.{name}")
    return getattr(module, f"{name.capitalize()}Settings"), module.run


@pytest.fixture
def run(run_main, tmp_path, monkeypatch):
    """`run("variance", *flags) -> (status, stdout, stderr)`, in a folder that contains only mine.py."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, *flags: run_main(*load(name), *flags)
