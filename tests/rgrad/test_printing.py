"""What a Python session and a notebook show of results, and their rows."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax
import pytest

import rgrad

KEY = jax.random.key(0)


class problem:
    params: ClassVar = {"loc": 0.5}

    def distribution(params):
        return dist.Normal(params["loc"], 1.0)

    def objective(params, x):
        return x**2


def results():
    many = rgrad.measure(lambda key: {"w": jax.random.normal(key, (4, 5))}, KEY, 100)
    fitted = rgrad.fit(lambda p, key: (p["loc"] - jax.random.normal(key)) ** 2, {"loc": 1.0}, optax.sgd(0.1), KEY, 5)
    swept = rgrad.sweep(problem, {"loc": jnp.linspace(0, 1, 9), "n": [2, 4]}, "reparameterized", key=KEY, replicates=8)
    compared = rgrad.compare(problem, estimators=["reparameterized"], budget=0.05, key=KEY)
    return {"moments": (many, 20), "fit": (fitted, 5), "sweep": (swept, 18), "comparison": (compared, 1)}


def test_results_as_tables():
    """At most 20 lines and 160 characters wide, the same in a session and a notebook, and `rows` for all of it."""
    for name, (result, count) in results().items():
        text = repr(result)
        assert text == str(result)
        assert max(map(len, text.splitlines())) <= 160, text
        assert len(text.splitlines()) <= 20, text
        assert result._repr_html_().startswith("<pre>"), name
        assert len(result.rows) == count, name
        assert set(result.rows[0]) == set(result.rows[-1])


def test_what_they_show():
    found = {name: str(result) for name, (result, _) in results().items()}
    assert "w[0, 1]" in found["moments"]
    assert "... and 8 more: see .rows" in found["moments"]
    assert found["moments"].endswith("per call, from 100 calls, with 95 % intervals")
    assert found["fit"].startswith("Fit after 5 steps\nloss ")
    assert found["sweep"].splitlines()[0].split() == [
        "n", "loc", "estimator", "parameter", "mean", "standard_error", "variance", "variance_low", "variance_high",
    ]  # fmt: skip
    assert "... and 6 more: see .rows" in found["sweep"]


def test_traced_and_batched_results_can_be_printed():
    many = jax.vmap(lambda t: rgrad.measure(lambda key: t * jax.random.normal(key), KEY, 10))(jnp.ones(3))
    assert str(many) == "Moments, of (3,) settings, 3 numbers each for mean, variance, ..."
    seen = []
    jax.jit(lambda key: seen.append(repr(rgrad.measure(jax.random.normal, key, 10))))(KEY)
    assert seen == ["Moments, traced, 1 numbers each for mean, variance, ..."]


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = rgrad.measure(jax.random.normal, KEY, 10).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns)[:2] == ["name", "mean"]
