"""Compiler options: when JAX accepts them, which ones XLA knows, and which programs count as small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rgrad.backend import compiling, programs
from rgrad.backend.compiling import IN_CACHE, lanes_around, options, size_of, takes_options
from rgrad.backend.programs import compiled

HERE = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
ALONG = jax.sharding.PartitionSpec("d")
X = jnp.ones((1, 3))
AROUND = {
    "nothing": (lambda f: f(X), True),
    "vmap": (lambda f: jax.vmap(f)(X), True),
    "vmap of vmap": (lambda f: jax.vmap(jax.vmap(f))(X), True),
    "jit": (lambda f: jax.jit(f)(X), False),
    "vmap of jit": (lambda f: jax.vmap(jax.jit(f))(X), False),
    "jit of vmap": (lambda f: jax.jit(jax.vmap(f))(X), False),
    "scan": (lambda f: jax.lax.scan(lambda c, x: (c, f(x)), 0, X), False),
    "map": (lambda f: jax.lax.map(f, X), False),
    "checkpoint": (lambda f: jax.checkpoint(f)(X), False),
    "shard_map": (lambda f: jax.shard_map(f, mesh=HERE, in_specs=ALONG, out_specs=ALONG)(X), False),
}


@pytest.mark.parametrize("around", AROUND)
def test_what_takes_options(around):
    apply, truth = AROUND[around]
    said = []

    def f(x):
        said.append(takes_options())
        return x

    apply(f)
    assert said
    assert set(said) == {truth}


GRADIENTS = {
    "grad": lambda f: jax.grad(f),
    "jacfwd": lambda f: jax.jacfwd(f),
    "hessian": lambda f: jax.hessian(f),
    "vmap of grad": lambda f: lambda x: jax.vmap(jax.grad(f))(x[None])[0],
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
    "value_and_grad within jit": lambda f: jax.jit(jax.value_and_grad(f)),
}


@pytest.mark.parametrize("of", [*AROUND, *GRADIENTS])
def test_a_compiled_function_is_that_function_under_everything(of):
    plain = lambda x: (jnp.sin(x) * x).sum()
    call = compiled(plain, ())
    if of in GRADIENTS:
        x = jnp.array([0.3, 2.0])
        mine, theirs = GRADIENTS[of](call)(x), GRADIENTS[of](plain)(x)
    else:
        elementwise = lambda x: jnp.sin(x) * x
        call = compiled(elementwise, ())
        mine, theirs = AROUND[of][0](call), AROUND[of][0](elementwise)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine, theirs)


@pytest.mark.parametrize("of", [*AROUND, *GRADIENTS])
def test_without_options(of, monkeypatch):
    """This is the case on an accelerator."""
    monkeypatch.setattr(compiling, "options", lambda one_core=False, short_sums=False: None)
    test_a_compiled_function_is_that_function_under_everything(of)


def test_how_many_a_vmap_goes_over():
    said = []

    def f(x):
        said.append(lanes_around(jnp.zeros(4), x))
        return x

    f(jnp.ones(3))
    jax.vmap(f)(jnp.ones(3))
    jax.vmap(jax.vmap(f))(jnp.ones((3, 5)))
    jax.vmap(lambda y: jax.vmap(lambda z: f(y * z))(jnp.ones(7)))(jnp.ones(2))
    jax.vmap(f, 1)(jnp.ones((2, 6)))
    jax.vmap(f)(jax.random.split(jax.random.key(0), 8))
    assert said == [1, 3, 15, 14, 6, 8]


@pytest.mark.parametrize(("lanes", "one_core"), [(2, True), (IN_CACHE, True), (2 * IN_CACHE, False)])
def test_small_programs_have_one_core(lanes, one_core, monkeypatch):
    asked = []
    for module in (compiling, programs):
        monkeypatch.setattr(module, "options", lambda one_core=None, short_sums=None: asked.append(one_core) or {})
    compiling._probe()  # now, so that its result is cached
    jax.vmap(compiled(lambda x: x + 1, ()))(jnp.zeros(lanes))
    assert asked == [None, one_core]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it tests options of the CPU compiler")
def test_options_that_this_compiler_does_not_know_are_left_out(monkeypatch):
    known = "xla_cpu_prefer_vector_width"
    assert options()[known] == 512
    monkeypatch.setattr(compiling, "OPTIONS", {known: 256, "xla_cpu_of_another_version": True})
    options.cache_clear()
    found, _ = options(), options.cache_clear()
    assert found == {known: 256}


def test_the_size_of_a_program():
    """It counts all numbers that the program produces, in every step of a scan, and the largest result."""

    def program(x):  # 5 for 2 x, three times 5 for x + 1, and 1 for the sum
        y, _ = jax.lax.scan(lambda c, _: (c + 1, None), 2 * x, None, 3)
        return y.sum()

    work, largest = size_of(jax.make_jaxpr(program)(jnp.zeros(5)).jaxpr)
    assert largest == 5
    assert 5 + 15 + 1 <= work <= 5 + 15 + 1 + 5 + 4  # the scan also produces its result and its own counter
