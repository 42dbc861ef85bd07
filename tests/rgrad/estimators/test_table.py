"""Estimators by name, wherever estimators are taken."""

from functools import partial

import jax
import numpyro.distributions as dist
import pytest

import rgrad
from rgrad.estimators.table import estimators_of

KEY = jax.random.key(0)
NAME = "score_function+leave_one_out"
LEAVE_ONE_OUT = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


class Square:
    params = {"loc": 2.0}  # noqa: RUF012
    distribution = staticmethod(lambda params: dist.Normal(params["loc"], 1.0))
    objective = staticmethod(lambda params, x: x**2)


def test_a_name_is_its_estimator():
    normal = lambda t: dist.Normal(t, 1.0)
    expect = lambda e: jax.grad(lambda t: rgrad.expect(lambda x: x**2, normal(t), KEY, 5, e))(2.0)
    elbo = lambda e: jax.grad(lambda t: rgrad.elbo(lambda z: -(z**4), normal(t), KEY, 5, e))(2.0)
    exact = lambda e: rgrad.exact_moments(Square, e).per_sample["loc"]
    for of in (expect, elbo, exact):
        assert of(NAME) == of(LEAVE_ONE_OUT)
    both = rgrad.combine(["reparameterized", NAME])
    assert both.members == (rgrad.reparameterized, rgrad.ESTIMATORS[NAME].estimator)


def test_names_in_compare_and_sweep():
    compared = rgrad.compare(Square, ["reparameterized", "score_function"], key=KEY, budget=0.01, cost="operations")
    assert {row["estimator"] for row in compared.rows} == {"reparameterized", "score_function"}
    for estimators in ("score_function", [rgrad.score_function], {"score_function": "score_function"}):
        swept = rgrad.sweep(Square, {"loc": [1.0]}, estimators, key=KEY, replicates=10)
        assert [row["estimator"] for row in swept.rows] == ["score_function"]


def test_names_of_functions_in_a_list():
    def mine(f, q, key, n):
        return rgrad.reparameterized(f, q, key, n)

    found = estimators_of([mine, rgrad.disarm, LEAVE_ONE_OUT, "arm"], "compare")
    assert list(found) == ["mine", "disarm", "partial", "arm"]
    assert found["arm"] is rgrad.arm


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ("score_functoin", ValueError, r"compare: unknown estimator 'score_functoin'; did you mean 'score_function'\?"),
        ([rgrad.arm, "rebra"], ValueError, r"unknown estimator 'rebra'; did you mean 'rebar'\?"),
        ([rgrad.arm, 3], TypeError, "must be callable, or a name of rgrad.ESTIMATORS, got int 3"),
        ([rgrad.arm, "arm"], ValueError, "two estimators are named 'arm'; pass a dict"),
        ([], ValueError, "estimators is empty"),
    ],
)
def test_bad_names(given, error, match):
    with pytest.raises(error, match=match):
        rgrad.compare(Square, given, key=KEY)
