"""Programs live as long as the function that they were made for, and are found again for it."""

import gc
import sys
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad
from rgrad.backend.programs import MOST, compiled

KEY = jax.random.key(0)


class Counted:
    """A function of functions that counts how often it was traced."""

    def __init__(self):
        self.traces = 0

        def apply(f, x, g, power):
            self.traces += 1
            return g(f(x)) ** power

        self.call = compiled(apply, ("f", "g", "power"))


def double(x):
    return 2 * x


class Line:
    def __init__(self, slope):
        self.slope = slope

    def at(self, x):
        return self.slope * x

    __call__ = at


def test_equal_functions_share_a_program():
    counted, line = Counted(), Line(3.0)
    x = jnp.asarray(1.5)
    for f in (double, line, line.at, partial(double)):
        before = counted.traces
        first, again = (counted.call(f, x, f, 2) for _ in range(2))
        assert first == again == f(f(x)) ** 2
        traced = counted.traces - before
        counted.call(f, x, f, 2)
        assert counted.traces == before + traced, f
    # Another static value, or an equal one of another type, is another program.
    before = counted.traces
    assert counted.call(double, x, double, 3) == 216.0
    assert counted.call(double, x, double, 2.0) == 36.0
    assert counted.traces > before


def test_a_bound_method_keeps_its_program():
    counted, line = Counted(), Line(3.0)
    counted.call(line.at, jnp.asarray(1.0), double, 1)
    before = counted.traces
    counted.call(line.at, jnp.asarray(2.0), double, 1)
    assert counted.traces == before


def test_what_cannot_be_kept_is_compiled_each_time():
    class Unhashable(Line):
        __hash__ = None

    counted = Counted()
    for f in (Unhashable(3.0), Unhashable(3.0).at):
        assert counted.call(f, jnp.asarray(1.0), double, 1) == 6.0


def test_few_programs_are_kept_for_one_function():
    counted = Counted()
    for power in range(2 * MOST):
        counted.call(double, jnp.asarray(1.0), double, power)
    (mine,) = counted.call._kept.values()
    assert len(mine) == MOST


def fresh_loss():
    shift = jnp.ones(3)  # something that it closes over
    return lambda p, key: rgrad.expect(lambda x: (x - shift[0]) ** 2, dist.Normal(p, 1.0), key, 10)


CALLS = {
    "measure": lambda loss: rgrad.measure(lambda key: jax.grad(loss)(2.0, key), KEY, 100),
    "vmap of measure": lambda loss: jax.vmap(lambda t: rgrad.measure(lambda key: loss(t, key), KEY, 100).mean)(jnp.ones(2)),
    "fit": lambda loss: rgrad.fit(loss, 0.0, optax.adam(0.1), KEY, 5, feasible=lambda p: loss(p, KEY) > -1),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_no_function_outlives_its_call(name):
    """`jax.jit(..., static_argnames="loss")` would keep it, and its program, forever."""
    loss = fresh_loss()
    dead = weakref.ref(loss)
    CALLS[name](loss)
    del loss
    gc.collect()
    assert dead() is None


def test_no_problem_outlives_its_sweep():
    class Problem(SimpleNamespace):
        """It can be referenced weakly."""

    problem = Problem(
        params={"loc": 2.0},
        distribution=lambda params: dist.Normal(params["loc"], 1.0),
        objective=lambda params, x: x**2,
    )
    dead = weakref.ref(problem)
    with jax.checking_leaks():
        rgrad.sweep(problem, {"loc": np.linspace(0, 1, 3)}, key=KEY, replicates=20)
    del problem
    gc.collect()
    assert dead() is None


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("name", [*CALLS, "sweep", "compare", "exact_moments", "iwae"])
def test_memory_of_300_calls_with_fresh_functions(name):
    """It grows by less than 0.2 MB a call. One program has 0.3 to 7 MB."""

    def call(i):
        problem = SimpleNamespace(
            params={"loc": 2.0},
            distribution=lambda p: dist.Normal(p["loc"], 1.0),
            objective=lambda p, x: (x - i) ** 2,
        )
        estimators = {"reparameterized": rgrad.reparameterized, "score_function": rgrad.score_function}
        if name in CALLS:
            CALLS[name](fresh_loss())
        elif name == "sweep":
            rgrad.sweep(problem, {"loc": [1.0, 2.0]}, estimators, key=KEY, replicates=20)
        elif name == "compare":
            rgrad.compare(problem, estimators, key=KEY, budget=0.01, cost="operations")
        elif name == "exact_moments":
            rgrad.exact_moments(problem, rgrad.reparameterized)
        else:
            jax.grad(lambda t: rgrad.iwae(lambda z: -((z - i) ** 2), dist.Normal(t, 1.0), KEY, 4, 10))(2.0)

    megabytes = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    for i in range(10):
        call(-i)
    gc.collect()
    before = megabytes()
    for i in range(300):
        call(i)
    gc.collect()
    assert (megabytes() - before) / 300 < 0.2
