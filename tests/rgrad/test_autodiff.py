"""`attach` and `attach_gradient` are right to their order, and raise beyond it, under every transformation."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.experimental import jet

import rgrad

TWICE = {
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over reverse": lambda f: jax.grad(jax.grad(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over forward": lambda f: jax.grad(jax.jacfwd(f)),
}
# Each evaluates sum_i f(theta * c_i) for c = 1, 2, 3 in a different way.
C = jnp.array([1.0, 2.0, 3.0])
UNDER = {
    "plain": lambda f: lambda t: sum(f(t * c) for c in C),
    "jit": lambda f: jax.jit(lambda t: sum(jax.jit(f)(t * c) for c in C)),
    "vmap": lambda f: lambda t: jax.vmap(f)(t * C).sum(),
    "scan": lambda f: lambda t: jax.lax.scan(lambda carry, c: (carry + f(t * c), None), 0.0, C)[0],
    "scan carry": lambda f: (
        lambda t: jax.lax.scan(lambda carry, c: ((carry[0] + f(carry[1] * c), carry[1]), None), (0.0, t), C)[0][0]
    ),
    "map": lambda f: lambda t: jax.lax.map(lambda c: f(t * c), C).sum(),
    "jit of map of jit": lambda f: jax.jit(lambda t: jax.lax.map(jax.jit(lambda c: f(t * c)), C).sum()),
    "checkpoint": lambda f: lambda t: sum(jax.checkpoint(f)(t * c) for c in C),
}
BOTH = list(itertools.product(TWICE, UNDER))


@pytest.mark.parametrize(("twice", "under"), BOTH)
def test_attach_to_second_order(twice, under, x64):
    """The second derivative of v e^(l - l) is v (l'^2 + l''). With l = t^2 and v = 5 it is 5 (4 t^2 + 2), times c^2."""
    f = lambda t: rgrad.attach(5.0, t**2)
    truth = sum(c**2 * 5 * (4 * (2.0 * c) ** 2 + 2) for c in np.asarray(C))
    assert TWICE[twice](UNDER[under](f))(2.0) == pytest.approx(truth, rel=1e-12)


def test_attach_to_third_order_and_keeps_the_derivative_of_values(x64):
    f = lambda t: rgrad.attach(jnp.sin(t), jnp.log(t))  # if l = log t, the ratio is t / t0: (sin t * t / t0) at t0
    derivatives = [f, jax.grad(f), jax.grad(jax.grad(f)), jax.grad(jax.grad(jax.grad(f)))]
    s, c, t = np.sin(2.0), np.cos(2.0), 2.0
    for derivative, truth in zip(derivatives, [s, c + s / t, -s + 2 * c / t, -c - 3 * s / t], strict=True):
        assert derivative(2.0) == pytest.approx(truth, rel=1e-12)


def test_attach_is_the_ratio_of_densities_and_computes_none():
    """Derivatives up to the fourth are those of v exp(l - stop_gradient(l)). The value does not use l."""
    ratio = lambda v, l: v * jnp.exp(l - jax.lax.stop_gradient(l))  # noqa: E741
    value, log_density = lambda t: jnp.cos(t), lambda t: jnp.sin(3 * t) - t**2
    mine, theirs = (lambda t, of=of: of(value(t), log_density(t)) for of in (rgrad.attach, ratio))
    for order in range(5):
        assert float(mine(0.7)) == pytest.approx(float(theirs(0.7)), rel=1e-4), order
        mine, theirs = (jax.grad(f) if order % 2 else jax.jacfwd(f) for f in (mine, theirs))
    attached, plain = (
        jet.jet(lambda t, of=of: of(value(t), log_density(t)), (0.7,), ((1.0, 0.0, 0.0),))
        for of in (rgrad.attach, ratio)
    )
    np.testing.assert_allclose(attached[1], plain[1], rtol=1e-4)
    program = jax.jit(lambda t: rgrad.attach(2.0, jnp.sin(t))).lower(1.0).compile().as_text()
    assert "exponential" not in program
    assert " sine(" not in program
    assert " sine(" in jax.jit(jax.grad(lambda t: rgrad.attach(2.0, jnp.cos(t)))).lower(1.0).compile().as_text()


@pytest.mark.parametrize("density", [-np.inf, np.inf, np.nan])
def test_attach_keeps_values_when_the_density_is_not_finite(density):
    terms = lambda t: rgrad.attach(jnp.array([1.0, 2.0]), jnp.array([density, 3.0 * t]))
    np.testing.assert_array_equal(terms(1.0), [1.0, 2.0])
    np.testing.assert_array_equal(jax.jacfwd(terms)(1.0), [0.0, 6.0])
    np.testing.assert_array_equal(jax.jacrev(terms)(1.0), [0.0, 6.0])


def by_hand(t):
    """The value is 3. Each of three terms has the hand-written derivative cos(t), which itself depends on t."""
    return rgrad.attach_gradient(jnp.ones(3), {"loc": t}, {"loc": jnp.full(3, jnp.cos(t))}, "by_hand").sum()


def constant_by_hand(t):
    return rgrad.attach_gradient(jnp.ones(3), {"loc": t}, {"loc": jnp.full(3, 7.0)}, "by_hand").sum()


@pytest.mark.parametrize("under", UNDER)
def test_attach_gradient_to_first_order(under):
    f = UNDER[under](by_hand)
    truth = sum(3 * c * np.cos(0.5 * c) for c in np.asarray(C))
    assert f(0.5) == 9.0
    assert jax.grad(f)(0.5) == pytest.approx(truth, rel=1e-6)
    assert jax.jacfwd(f)(0.5) == pytest.approx(truth, rel=1e-6)
    assert jax.jit(jax.vmap(jax.grad(f)))(jnp.array([0.5, 0.5]))[1] == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(("twice", "under"), BOTH)
@pytest.mark.parametrize("f", [by_hand, constant_by_hand])
def test_attach_gradient_raises_at_second_order(twice, under, f):
    with pytest.raises(NotImplementedError, match=r"by_hand: .*first order only"):
        TWICE[twice](UNDER[under](f))(0.5)


@pytest.mark.parametrize("under", UNDER)
def test_a_parameter_without_a_rule_raises_only_if_it_is_differentiated(under):
    def f(loc, scale):
        return rgrad.attach_gradient(jnp.ones(2), {"loc": loc, "scale": scale}, {"loc": jnp.ones(2)}, "weak").sum()

    one = lambda loc: UNDER[under](lambda t: f(t, 3.0))(loc)
    assert jax.grad(one)(1.0) == 12.0
    assert one(1.0) == 6.0
    with pytest.raises(NotImplementedError, match="weak has no rule for the parameter 'scale'"):
        jax.grad(lambda scale: UNDER[under](lambda t: f(2.0, t))(scale))(1.0)


def test_attach_gradient_of_vectors_and_its_errors():
    matrix = jnp.arange(6.0).reshape(2, 3)
    f = lambda loc: rgrad.attach_gradient(jnp.zeros(2), {"loc": loc}, {"loc": matrix}, "rows").mean()
    np.testing.assert_allclose(jax.grad(f)(jnp.ones(3)), matrix.mean(0))
    with pytest.raises(ValueError, match=r"rows: the gradient for 'loc' has shape \(2, 3\)"):
        rgrad.attach_gradient(jnp.zeros(2), {"loc": jnp.ones(2)}, {"loc": matrix}, "rows")
    with pytest.raises(ValueError, match="gradients has the key 'lok', but the parameters are loc"):
        rgrad.attach_gradient(jnp.zeros(2), {"loc": 1.0}, {"lok": jnp.zeros(2)}, "rows")


def two_parameters(loc, scale, phi):
    """Hand-written gradients for a constant sample z of phi (loc + scale z)^3, as in a measure-valued estimator."""
    z = jnp.array([-1.0, 0.5, 2.0])
    x = jax.lax.stop_gradient(loc + scale * z)
    slope = 3 * phi * x**2
    return rgrad.attach_gradient(
        phi * x**3, {"loc": loc, "scale": scale}, {"loc": slope, "scale": slope * z}, "two"
    ).sum()


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0), (2, 0), (2, 1), (0, 0), (1, 1)])
def test_mixed_second_derivatives_raise_too(first, then, wrap):
    """The sample is a constant, so the derivative of d/d scale in loc would be 0. The right value is 6 scale."""
    for one, two in itertools.product((jax.grad, jax.jacfwd), repeat=2):
        with pytest.raises(NotImplementedError, match="first order only"):
            wrap(two(wrap(one(two_parameters, first)), then))(1.0, 2.0, 1.0)


def test_a_parameter_that_only_f_uses_is_differentiated_as_usual():
    z = np.array([-1.0, 0.5, 2.0])
    assert jax.grad(two_parameters, 2)(1.0, 2.0, 1.0) == pytest.approx(np.sum((1 + 2 * z) ** 3))
    assert jax.grad(jax.grad(two_parameters, 2), 2)(1.0, 2.0, 1.0) == 0.0
    # The hand-written gradient as a function of phi is right to this order.
    assert jax.grad(jax.grad(two_parameters, 0), 2)(1.0, 2.0, 1.0) == pytest.approx(np.sum(3 * (1 + 2 * z) ** 2))


def test_under_shard_map():
    mesh = jax.sharding.Mesh(jax.devices(), ("d",))
    spec = jax.sharding.PartitionSpec("d")
    local = lambda loc: jax.grad(lambda t: two_parameters(t[0], 2.0, 1.0))(loc)
    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.ones(1))
    np.testing.assert_allclose(sharded, local(jnp.ones(1)))
    attached = lambda loc: jax.grad(lambda t: rgrad.attach(3.0, t[0] ** 2))(loc)
    sharded = jax.jit(jax.shard_map(attached, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.ones(1))
    np.testing.assert_allclose(sharded, [6.0])


TWO_DEVICES = jax.sharding.AbstractMesh((2,), ("d",), (jax.sharding.AxisType.Auto,))  # jax 0.11 defaults to Explicit
VARIOUS = {
    "score_function": (lambda t: dist.Normal(t, 1.0), rgrad.score_function),
    "measure_valued": (lambda t: dist.Normal(t, jnp.exp(t)), rgrad.measure_valued),
    "measure_valued, Poisson": (lambda t: dist.Poisson(jnp.exp(t)), partial(rgrad.measure_valued, coupled=False)),
    "disarm": (lambda t: dist.Bernoulli(logits=t), rgrad.disarm),
}


@pytest.mark.parametrize("name", VARIOUS)
def test_a_gradient_is_summed_over_the_devices_of_a_shard_map(name):
    """The keys vary over the devices and t does not, so the transpose of the cast is a sum. The types show this.

    If a value varied and its type did not say so, the value of the first device would be used.
    """
    q, estimator = VARIOUS[name]
    mesh, along = TWO_DEVICES, jax.sharding.PartitionSpec("d")
    loss = lambda t, keys: rgrad.expect(lambda x: x**2 * 1.0, q(t), keys[0], 4, estimator)
    sharded = lambda f, out: jax.shard_map(f, mesh=mesh, in_specs=(jax.sharding.PartitionSpec(), along), out_specs=out)
    keys, gradient = jax.random.split(jax.random.key(0), 2), jax.grad(loss)
    with pytest.raises(ValueError, match="out_specs"):
        jax.make_jaxpr(sharded(loss, jax.sharding.PartitionSpec()))(0.3, keys)
    assert "psum" in str(jax.make_jaxpr(sharded(gradient, jax.sharding.PartitionSpec()))(0.3, keys))
    jax.make_jaxpr(jax.grad(lambda t: sharded(lambda t, k: loss(t, k)[None], along)(t, keys).mean()))(0.3)


GAMMAS = {
    "Gamma": lambda t: dist.Gamma(jnp.exp(t), 1.0),
    "Beta": lambda t: dist.Beta(jnp.exp(t), 2.0),
    "Dirichlet": lambda t: dist.Dirichlet(jnp.exp(t) * jnp.ones(3)),
}


def traced_in_shard_map(q, estimator, t_varies, key_varies):
    """Traces a gradient on two devices, over which t, the key, or both vary."""
    mesh, along = TWO_DEVICES, jax.sharding.PartitionSpec("d")
    of = lambda t, key: jax.grad(lambda t: rgrad.expect(lambda x: jnp.sum(x * 1.0) ** 2, q(t), key, 4, estimator))(t)
    specs = tuple(along if varies else jax.sharding.PartitionSpec() for varies in (t_varies, key_varies))
    sharded = jax.shard_map(lambda t, key: of(t[0], key[0])[None], mesh=mesh, in_specs=specs, out_specs=along)
    jax.make_jaxpr(sharded)(jnp.ones(2), jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize("varies", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", GAMMAS)
def test_loops_of_samplers_under_shard_map(name, varies):
    """A loop needs one type for all it carries, so the parameters and the key are cast to one that varies."""
    for estimator in (rgrad.score_function, rgrad.reparameterized, rgrad.rejection, rgrad.generalized):
        traced_in_shard_map(GAMMAS[name], estimator, *varies)


def test_a_sampler_that_cannot_vary_says_what_to_do():
    """NumPyro's loop for a Binomial starts from constants, which do not vary."""
    with pytest.raises(TypeError) as error:
        traced_in_shard_map(lambda t: dist.Binomial(5, logits=t), rgrad.score_function, False, True)
    assert any("pass check_vma=False to shard_map" in note for note in error.value.__notes__)
