"""`params` may be any pytree of numbers: the results are those of the flat problem, and bad structures are refused."""

import dataclasses
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad
from experiments.common.measuring import tried
from experiments.common.settings import ProblemSettings, parse
from rgrad.parameters import by_name, flattened
from rgrad.problems import named, names_to_differentiate, point_of

KEY = jax.random.key(3)
BOTH = ["reparameterized", "score_function"]


class Pair(NamedTuple):
    loc: Any
    scale: Any


@partial(jax.tree_util.register_dataclass, data_fields=["loc", "scale"], meta_fields=["bias"])
@dataclasses.dataclass
class Registered:
    loc: Any
    scale: Any
    bias: Any = None


@dataclasses.dataclass
class Unregistered:
    loc: Any
    scale: Any


class ProblemOf:
    """E[x^2], x ~ N(loc, scale), with any structure of the parameters. `get` takes loc and scale out of it."""

    def __init__(self, params, get, kind=object):
        self.params, self.get, self.kind = params, get, kind

    def distribution(self, params):
        assert isinstance(params, self.kind)
        return dist.Normal(*self.get(params))

    def objective(self, params, x):
        assert isinstance(params, self.kind)
        return x**2


attributes = lambda p: (p.loc, p.scale)
# The structure, how its parts are called, the flat problem's names, and the same structure at loc = 3.
CASES = {
    "nested dict": (ProblemOf({"q": {"loc": 2.0, "scale": 1.0}}, lambda p: (p["q"]["loc"], p["q"]["scale"]), dict),
                    ("q.loc", "q.scale"), {"q": {"loc": 3.0, "scale": 1.0}}),
    "NamedTuple": (ProblemOf(Pair(2.0, 1.0), attributes, Pair), ("loc", "scale"), Pair(3.0, 1.0)),
    "NamedTuple in a dict": (ProblemOf({"q": Pair(2.0, 1.0)}, lambda p: attributes(p["q"]), dict),
                             ("q.loc", "q.scale"), {"q": Pair(3.0, 1.0)}),
    "dataclass": (ProblemOf(Registered(2.0, 1.0), attributes, Registered), ("loc", "scale"), Registered(3.0, 1.0)),
    "list": (ProblemOf([2.0, 1.0], tuple, list), ("0", "1"), [3.0, 1.0]),
    "tuple": (ProblemOf((2.0, 1.0), tuple, tuple), ("0", "1"), (3.0, 1.0)),
    "dict of a list of dicts": (ProblemOf({"net": [{"w": 2.0}, {"w": 1.0}]}, lambda p: (p["net"][0]["w"], p["net"][1]["w"]), dict),
                                ("net.0.w", "net.1.w"), {"net": [{"w": 3.0}, {"w": 1.0}]}),
    "numbers as keys": (ProblemOf({0: 2.0, 1: 1.0}, lambda p: (p[0], p[1]), dict), ("0", "1"), {0: 3.0, 1: 1.0}),
}  # fmt: skip


def flat(loc, scale):
    return ProblemOf({loc: 2.0, scale: 1.0}, lambda p: (p[loc], p[scale]), dict)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


FAST = ("nested dict", "dataclass", "list")  # one of each kind of container


@pytest.mark.parametrize("case", [c if c in FAST else pytest.param(c, marks=pytest.mark.long) for c in CASES])
def test_exact_moments_are_those_of_the_flat_problem(case):
    problem, (loc, scale), moved = CASES[case]
    plain = flat(loc, scale)
    found = rgrad.exact_moments(problem, "score_function")
    equal(found, rgrad.exact_moments(plain, "score_function"))
    np.testing.assert_allclose(found.mean[loc], 4.0, rtol=1e-9)  # 2 loc
    np.testing.assert_allclose(found.per_sample[loc], 87.0, rtol=1e-9)
    at = rgrad.exact_moments(plain, "score_function", {loc: 3.0}, [loc])
    for params in ({loc: 3.0}, moved):
        equal(rgrad.exact_moments(problem, "score_function", params, [loc]), at)
    np.testing.assert_allclose(at.mean[loc], 6.0, rtol=1e-9)


@pytest.mark.parametrize(
    "case", ["nested dict", *(pytest.param(c, marks=pytest.mark.long) for c in ("dataclass", "list"))]
)
def test_compare_is_that_of_the_flat_problem(case):
    problem, names, moved = CASES[case]
    found = rgrad.compare(problem, BOTH, moved, key=KEY, budget=1e-4, cost="operations")
    plain = rgrad.compare(flat(*names), BOTH, {names[0]: 3.0}, key=KEY, budget=1e-4, cost="operations")
    timeless = lambda comparison: [{k: v for k, v in row.items() if "seconds" not in k} for row in comparison.rows]
    np.testing.assert_equal(timeless(found), timeless(plain))
    assert names[0] in str(found)


@pytest.mark.parametrize(
    "case", ["nested dict", *(pytest.param(c, marks=pytest.mark.long) for c in ("NamedTuple in a dict", "tuple"))]
)
def test_sweep_is_that_of_the_flat_problem(case):
    problem, names, moved = CASES[case]
    loc, scale = names
    run = lambda of, **more: rgrad.sweep(of, {scale: [0.5, 1.0], "n": [2, 3]}, BOTH, key=KEY, replicates=50, **more)
    assert run(problem, params={loc: 3.0}).rows == run(flat(*names), params={loc: 3.0}).rows
    assert run(problem).rows[0][scale] == 0.5
    with pytest.raises(ValueError, match="is both an axis and a fixed parameter"):
        run(problem, params=moved)


def test_sweep_over_the_dimension():
    class Nested:
        def __init__(self, d):
            self.params = {"q": {"loc": [2.0] * d, "scale": 1.0}}

        of_dimension = staticmethod(lambda d: Nested(d))
        wrt = "q.loc"
        distribution = staticmethod(lambda p: dist.Normal(p["q"]["loc"], p["q"]["scale"]).to_event(1))
        objective = staticmethod(lambda p, x: jnp.sum(x**2))

    swept = rgrad.sweep(
        Nested(2), {"dimension": [1, 3], "q.loc": [0.0, 1.0]}, "reparameterized", key=KEY, replicates=200
    )
    assert swept.moments(dimension=3).mean["reparameterized"]["q.loc"].shape == (2, 3)
    assert {row["parameter"] for row in swept.rows} == {"q.loc[0]", "q.loc[1]", "q.loc[2]"}


def test_a_bare_number_and_an_array():
    number = ProblemOf(2.0, lambda p: (p, 1.0))
    assert rgrad.exact_moments(number, "reparameterized").mean == {"params": 4.0}
    assert rgrad.exact_moments(number, "reparameterized", 3.0).mean == {"params": 6.0}
    assert rgrad.exact_moments(number, "reparameterized", {"params": 3.0}).mean == {"params": 6.0}
    array = ProblemOf(np.array([2.0, 1.0]), lambda p: (p[0], p[1]))
    np.testing.assert_allclose(rgrad.exact_moments(array, "reparameterized").mean["params"], [4.0, 2.0])
    rows = rgrad.sweep(number, {"params": [1.0, 2.0]}, "reparameterized", key=KEY, replicates=4).rows
    assert [row["params"] for row in rows] == [1.0, 2.0]


def test_losses_take_any_pytree():
    def loss(params, key, estimator):
        q = dist.Normal(params["q"].loc, params["q"].scale)
        return rgrad.expect(lambda x: x**2, q, key, 4, estimator)

    losses = {"a": partial(loss, estimator=rgrad.reparameterized), "b": partial(loss, estimator=rgrad.score_function)}
    found = rgrad.compare(losses, params={"q": Pair(2.0, 1.0)}, key=KEY, wrt="q", budget=1e-4, cost="operations")
    assert "q.loc" in str(found)
    assert "q.scale" in str(found)


def test_a_flat_dict_is_left_alone():
    """The problem itself comes back, with lists, and arrays of one shape, as one parameter each."""
    arrays = [np.ones(2), np.zeros(2)]
    for params in ({"a": [1.0, 2.0], "b": [[1.0, 2.0], [3.0, 4.0]]}, {"a": arrays}, {"q.loc": 1.0, "q": 2}):
        problem = ProblemOf(params, tuple)
        assert named(problem) is problem
    assert named(ProblemOf(MappingProxyType({"a": 1.0}), tuple)).params == {"a": 1.0}
    twice = named(named(CASES["list"][0]))
    assert list(twice.params) == ["0", "1"]


def test_a_list_of_numbers_within_a_container_is_an_array():
    params = {
        "q": {"loc": [1.0, 2.0]},
        "net": [[1, 2], [3.0, 4.0, 5.0]],
        "deep": [np.ones(2), np.ones(2)],
        "none": Pair(1.0, None),
    }
    found, rebuild = flattened(params)
    assert {name: np.shape(value) for name, value in found.items()} == {
        "q.loc": (2,), "net.0": (2,), "net.1": (3,), "deep.0": (2,), "deep.1": (2,), "none.loc": (),
    }  # fmt: skip
    again = rebuild(found)
    assert again["q"] == params["q"]
    assert again["net"] == params["net"]
    assert again["none"] == Pair(1.0, None)
    assert by_name({"net.0": [3, 4]}, found) == {"net.0": [3, 4]}
    assert by_name({"net": [[3, 4], [1, 2, 3]], "q": {"loc": [0, 0]}}, found) == {
        "net.0": [3, 4], "net.1": [1, 2, 3], "q.loc": [0, 0]}  # fmt: skip


def test_the_name_of_a_container_stands_for_all_in_it():
    problem = named(CASES["nested dict"][0])
    point = point_of(problem)
    for wrt, names in (
        ("q", ("q.loc", "q.scale")),
        (["q.scale"], ("q.scale",)),
        ("q.loc", ("q.loc",)),
        (None, ("q.loc", "q.scale")),
    ):
        assert names_to_differentiate(problem, point, wrt) == names
    own = CASES["list"][0]
    own.wrt = [1]
    try:
        assert rgrad.exact_moments(own, "reparameterized").mean.keys() == {"1"}
    finally:
        del own.wrt
    with pytest.raises(ValueError, match="names a parameter twice"):
        names_to_differentiate(problem, point, ["q", "q.loc"])
    with pytest.raises(ValueError, match="unknown parameter 'r'"):
        names_to_differentiate(problem, point, ["r"])


BAD = {
    "two of one name": ({"q": {"loc": 2.0}, "q.loc": 1.0}, "two parameters are called 'q.loc'.* rename one of the keys"),
    "keys that cannot be sorted": ({"q": {"a": 1.0, 1: 2.0}}, "not a valid pytree .*; use text for all keys of a dict"),
    "None in a dict": ({"q": {"loc": None, "scale": 1.0}}, "parameter q.loc is None; give a number"),
    "None in a flat dict": ({"loc": None}, "parameter loc is None; give a number"),
    "None": (None, "parameter params is None"),
    "nothing": ({}, "params must contain at least one number or array, got {}"),
    "an empty container": ({"q": {}}, "params must contain at least one number"),
    "a dataclass": (Unregistered(2.0, 1.0), "parameter params is an instance of the dataclass Unregistered.* register it with "
                    "jax.tree_util.register_dataclass"),
    "a dataclass in a dict": ({"q": Unregistered(2.0, 1.0)}, "parameter q is an instance of the dataclass Unregistered"),
    "text": ({"q": {"loc": "2"}}, "parameter q.loc must be a number or an array of numbers, got str '2'"),
    "a list of text": ({"q": ["a"]}, "parameter q.0 must be a number or an array of numbers, got str 'a'"),
    "a function": ([print], "parameter 0 must be a number"),
    "a mapping that JAX does not know": (MappingProxyType({"q": {"loc": 2.0}}), "must be a number or an array of numbers, got mappingproxy"),
    "not finite": ({"q": {"loc": np.nan}}, "parameter q.loc = nan is not finite"),
}  # fmt: skip
CALLS = {
    "exact_moments": lambda problem, **more: rgrad.exact_moments(problem, "score_function", **more),
    "compare": lambda problem, **more: rgrad.compare(problem, key=KEY, **more),
    "sweep": lambda problem, **more: rgrad.sweep(problem, {"n": [1]}, key=KEY, replicates=2, **more),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_structure_is_refused(bad, call):
    params, says = BAD[bad]
    with pytest.raises(ValueError, match=f"^{call}: .*{says}"):
        CALLS[call](ProblemOf(params, attributes))


@pytest.mark.parametrize("call", CALLS)
def test_bad_values_are_refused(call):
    problem = CASES["nested dict"][0]
    for params, says in (
        ({"q.lok": 1.0}, "unknown parameter 'q.lok'; this problem has q.loc, q.scale"),
        ({"q": {"lok": 1.0}}, "unknown parameter 'q.lok'"),
        ({"q": 1.0}, "unknown parameter 'q'"),
        ([1.0], "unknown parameter '0'"),
        (1.0, "unknown parameter 'params'"),
        ({"q": Unregistered(2.0, 1.0)}, "register it with jax.tree_util.register_dataclass"),
        ({"q.loc": 1.0, "q": {"loc": 1.0}}, "parameter 'q.loc' is given twice"),
        ({"q.loc": [[1.0], [1.0, 2.0]]}, "must be an array, but its parts have different shapes"),
    ):
        with pytest.raises(ValueError, match=f"^{call}: .*{says}"):
            CALLS[call](problem, params=params)
    with pytest.raises(TypeError, match=f"^{call}: a problem has distribution.*; str 'square' has no distribution"):
        CALLS[call]("square")


def test_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpyro.distributions as dist\n"
        "class nested:\n"
        "    params = {'q': {'loc': 2.0, 'scale': 1.0}, 'net': [[1.0, 2.0], [0.0, 0.0, 0.0]]}\n"
        "    def distribution(p): return dist.Normal(p['q']['loc'], p['q']['scale'])\n"
        "    def objective(p, x): return x**2 + p['net'][0][1]\n"
        "class number:\n"
        "    params = 2.0\n"
        "    def distribution(p): return dist.Normal(p, 1.0)\n"
        "    def objective(p, x): return x**2\n"
        "class unbound:\n"
        "    params = [1.0]\n"
        "    def distribution(self, p): return dist.Normal(p[0], 1.0)\n"
        "    def objective(self, p, x): return x**2\n"
    )
    (tmp_path / "a.toml").write_text("wrt = ['q.loc', 'net']\n[params]\nq.loc = 3\n'net.1' = [1, 2, 3]\n")
    load = lambda name, *argv: tried(
        parse(ProblemSettings, argv, "test"), f"{tmp_path}/mine.py:{name}", ("score_function",)
    )
    task = load("nested", "--params", "q.loc=1", "net.0=[1,2]", "--wrt", "q")
    assert task.wrt == ("q.loc", "q.scale")
    assert float(task.point["q.loc"]) == 1.0
    assert set(task.gradients(2)(KEY)["score_function"]) == {"q.loc", "q.scale"}
    task = load("nested", "--config", f"{tmp_path}/a.toml", "--params", "q.scale=2", "q.loc=4")
    assert task.wrt == ("q.loc", "net.0", "net.1")
    assert (float(task.point["q.loc"]), float(task.point["q.scale"]), task.point["net.1"].tolist()) == (
        4.0,
        2.0,
        [1, 2, 3],
    )
    assert float(load("number", "--params", "params=3").point["params"]) == 3.0
    with pytest.raises(Exception, match=r"this is a class: its functions must not take self"):
        load("unbound")


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: rgrad.exact_moments(CASES["list"][0], rgrad.moving_average), TypeError,
         r"exact_moments: estimator must take \(f, q, key, n\), got moving_average\(decay\)"),
        (lambda: rgrad.expect(jnp.sin, dist.Normal(0.0, 1.0), KEY, 2, lambda f, q: 0), TypeError, "expect: estimator must take"),
        (lambda: rgrad.iwae(jnp.sin, dist.Normal(0.0, 1.0), KEY, 2, 2, rgrad.leave_one_out), TypeError, "iwae: gradient must take"),
        (lambda: rgrad.compare(CASES["list"][0], 3, key=KEY), TypeError, "compare: estimator must be callable, or a name"),
        (lambda: rgrad.combine("score_function"), ValueError, "combine: needs at least two estimators, got 1"),
        (lambda: rgrad.score_function(jnp.sin, dist.Normal(0.0, 1.0), KEY, 2, baseline=rgrad.moving_average), TypeError,
         r"baseline: rgrad.moving_average is not called; write baseline=rgrad.moving_average\(\)"),
        (lambda: rgrad.surrogate(jnp.ones(2), jnp.ones(2), rgrad.moving_average), TypeError, "rgrad.moving_average is not called"),
        (lambda: rgrad.fit(lambda p, k: p**2, 1.0, optax.sgd(0.1), KEY, 2, jnp.ones(9)), TypeError,
         r"fit: loss must take \(params, state, key\), got <lambda>\(p, k\); .* if it is data"),
        (lambda: rgrad.fit(lambda p, data, k: p**2, 1.0, optax.sgd(0.1), KEY, 2, jnp.ones(9)), TypeError, "if it is data"),
        (lambda: rgrad.fit(lambda p, data, k: p**2, 1.0, optax.sgd(0.1), KEY, 2), TypeError, "bind data with functools.partial"),
        (lambda: rgrad.fit(lambda p, k: p.loc, Unregistered(1.0, 1.0), optax.sgd(0.1), KEY, 2), ValueError, "fit: .* jax.tree_util.register_dataclass"),
        (lambda: rgrad.fit(lambda p, k: 0.0, {"a": "x"}, optax.sgd(0.1), KEY, 2), ValueError, "params must contain at least one number"),
        (lambda: rgrad.fit(lambda p, k: 0.0, {}, optax.sgd(0.1), KEY, 2), ValueError, "at least one number"),
    ],
)  # fmt: skip
def test_other_mistakes_of_a_call(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


@pytest.mark.parametrize(
    "estimators", ["score_function", rgrad.score_function, ["score_function"], {"score_function": "score_function"}]
)
def test_estimators_by_name_or_as_functions(estimators):
    problem = CASES["list"][0]
    rows = rgrad.sweep(problem, {"n": [2]}, estimators, key=KEY, replicates=4).rows
    assert {row["estimator"] for row in rows} == {"score_function"}
    if not isinstance(estimators, list | dict):
        q = dist.Normal(0.0, 1.0)
        equal(rgrad.exact_moments(problem, estimators), rgrad.exact_moments(problem, rgrad.score_function))
        assert rgrad.elbo(jnp.sin, q, KEY, 2, estimators) == rgrad.elbo(jnp.sin, q, KEY, 2, rgrad.score_function)
        assert rgrad.iwae(jnp.sin, q, KEY, 2, 2, estimators) == rgrad.iwae(jnp.sin, q, KEY, 2, 2, rgrad.score_function)
    several = estimators if isinstance(estimators, list | dict) else [estimators]
    both = {**several, "b": "reparameterized"} if isinstance(several, dict) else [*several, rgrad.reparameterized]
    assert rgrad.combine(both).members == (rgrad.score_function, rgrad.reparameterized)
