"""Renyi bounds: every gradient against quadrature, the limits alpha = 0 and 1, and weights in the tails."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from rgrad.expectations.bound_gradients import renyi_of
from tests.calibration import assert_unbiased
from tests.enumeration import Given, expectation

# `loc` and `log_scale` belong to q, `m` to the model, `s` to both.
AT = {"loc": 0.4, "log_scale": -0.3, "m": 1.0, "s": 0.5}
ALPHAS = (0.0, 0.5, 1.0, 2.0)


def normal_of(p):
    return dist.Normal(p["loc"] + p["s"], jnp.exp(p["log_scale"]))


def log_joint(p):
    return lambda x: -((x - p["m"]) ** 2) / 2 + jnp.sin(p["s"] * x) * p["m"]


def bound(p, key, k, n, alpha, gradient):
    return rgrad.renyi(log_joint(p), normal_of(p), key, k, n, gradient, alpha=alpha)


def quadrature(p, k, alpha, nodes=60):
    """The bound by Gauss's rule in each of k dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    q = normal_of(p)
    log_w = jax.vmap(lambda e: log_joint(p)(q.loc + q.scale * e) - q.log_prob(q.loc + q.scale * e))(jnp.asarray(x))
    log_w = jnp.stack(jnp.meshgrid(*[log_w] * k, indexing="ij"))
    weight = np.stack(np.meshgrid(*[w / w.sum()] * k, indexing="ij")).prod(0)
    power = jnp.where(alpha == 1, 1.0, 1 - alpha)
    general = (jax.nn.logsumexp(power * log_w, 0) - np.log(k)) / power
    return jnp.sum(weight * jnp.where(alpha == 1, log_w.mean(0), general))


@pytest.fixture(scope="module")
def truth():
    """`truth[k][alpha]`: the gradient of the bound. For K = 1 it is that of the ELBO, whatever alpha is."""
    with jax.enable_x64(True):
        at = {name: jnp.asarray(value) for name, value in AT.items()}
        each = lambda k, p: jax.vmap(lambda alpha: jax.grad(quadrature)(p, k, alpha))(jnp.asarray(ALPHAS))
        found = jax.jit(lambda p: {k: each(k, p) for k in (1, 2, 3)})(at)
    return {
        k: {a: {name: float(g[i]) for name, g in of.items()} for i, a in enumerate(ALPHAS)} for k, of in found.items()
    }


GRADIENTS = ("reparameterized", "doubly_reparameterized")


@pytest.mark.parametrize("k", [2, pytest.param(3, marks=pytest.mark.long)])
def test_unbiased_for_all_parameters(k, truth):
    """Every alpha and gradient, for the parameters of q, of the model, and of both. alpha is traced. Catches 0.1 in
    gradients of 0.1 to 1."""
    alphas = jnp.asarray(ALPHAS)

    def draw(key):
        of = lambda name, alpha: jax.grad(bound)(AT, key, k, 3, alpha, name)
        found = {name: jax.vmap(partial(of, name))(alphas) for name in GRADIENTS}
        stl = jax.vmap(partial(of, "sticking_the_landing"))(alphas)
        return found | {"sticking_the_landing": {"m": stl["m"]}}  # right for the model only

    stacked = {name: np.array([truth[k][alpha][name] for alpha in ALPHAS]) for name in AT}
    want = dict.fromkeys(GRADIENTS, stacked) | {"sticking_the_landing": {"m": stacked["m"]}}
    assert_unbiased(draw, want, smallest_bias=0.1, replicates=10_000)


def test_exactly_for_one_set_of_samples(x64):
    """The reparameterized gradient is the derivative of the formula, and DReG the same with the score's second path.

    To 1e-12, for parameters of q, of the model and of both.
    """
    key, at = jax.random.key(3), {name: jnp.asarray(value) for name, value in AT.items()}

    def by_hand(p, eps, alpha, doubly):
        stop = jax.lax.stop_gradient
        x = normal_of(p).loc + normal_of(p).scale * eps
        log_w = jax.vmap(lambda x: log_joint(p)(x) - normal_of(p).log_prob(x))(x)
        if not doubly:
            return jnp.log(jnp.mean(jnp.exp((1 - alpha) * log_w))) / (1 - alpha)
        u = jax.nn.softmax(stop((1 - alpha) * log_w))
        c = alpha * u + (1 - alpha) * u**2
        fixed = stop(normal_of(p))
        in_x = jax.vmap(lambda x: log_joint(stop(p))(x) - fixed.log_prob(x))(x)
        in_model = jax.vmap(log_joint(p))(stop(x))
        return jnp.sum(c * in_x + u * in_model)

    z = jnp.array([0.3, -1.1, 0.8, 2.0])

    class Fixed(dist.Normal):
        def rsample(self, key, shape):
            return (self.loc + self.scale * z[: shape[-1]]).reshape(shape)

        sample = rsample

    def mine(p, alpha, name):
        q = normal_of(p)
        return rgrad.renyi(log_joint(p), rgrad.jax_random(Fixed(q.loc, q.scale)), key, 4, 1, name, alpha=alpha)

    for alpha in (0.5, 2.0, -1.0):
        for name, doubly in (("reparameterized", False), ("doubly_reparameterized", True)):
            got = jax.jit(jax.grad(mine), static_argnums=(1, 2))(at, alpha, name)
            want = jax.jit(jax.grad(by_hand), static_argnums=(2, 3))(at, z, alpha, doubly)
            for part in AT:
                np.testing.assert_allclose(got[part], want[part], rtol=1e-12, atol=1e-12, err_msg=f"{alpha} {name}")


def test_alpha_0_is_iwae():
    """The same numbers, whether alpha is a constant or traced."""
    key = jax.random.key(0)
    iwae = lambda p, name: rgrad.iwae(log_joint(p), normal_of(p), key, 5, 2, name)
    for name in ("doubly_reparameterized", "vimco"):
        of = lambda p, alpha, name=name: bound(p, key, 5, 2, alpha, name)
        both = jax.jit(
            lambda p, alpha, of=of, name=name: [
                jax.value_and_grad(g)(p) for g in (lambda p: of(p, 0), lambda p: of(p, alpha), lambda p: iwae(p, name))
            ]
        )(AT, 0.0)
        for got in both[:2]:
            for mine, his in zip(jax.tree.leaves(got), jax.tree.leaves(both[2]), strict=True):
                np.testing.assert_allclose(mine, his, rtol=1e-5)


def test_discrete_samples_exactly(x64):
    """All tuples of a Categorical over three values: the score function and VIMCO, value and gradient, to 1e-10.

    VIMCO's gradients are less than half as large, in the mean square.
    """
    logits, values = jnp.array([0.3, -0.5, 0.1]), jnp.array([1.0, 3.0, -0.5])
    alphas = jnp.array([0.5, 1.0, 2.0])

    def loss(a, samples, alpha, name):
        return rgrad.renyi(
            lambda i: values[i], Given(a, samples.reshape(1, 3)), jax.random.key(0), 3, 1, name, alpha=alpha
        )

    def exact(a, alpha):
        x = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
        log_q = jax.nn.log_softmax(a)[x]
        power = jnp.where(alpha == 1, 1.0, 1 - alpha)
        log_w = values[x] - log_q
        general = (jax.nn.logsumexp(power * log_w, -1) - np.log(3)) / power
        return jnp.exp(log_q.sum(-1)) @ jnp.where(alpha == 1, log_w.mean(-1), general)

    def moments(samples, name):
        value, gradient = jax.vmap(lambda alpha: jax.value_and_grad(loss)(logits, samples, alpha, name))(alphas)
        return value, gradient, (gradient**2).sum(-1)

    found = {name: expectation(partial(moments, name=name), 3, logits) for name in ("score_function", "vimco")}
    want = jax.jit(jax.vmap(lambda alpha: jax.value_and_grad(exact)(logits, alpha)))(alphas)
    for name, (value, gradient, _) in found.items():
        np.testing.assert_allclose(value, want[0], atol=1e-10, err_msg=name)
        np.testing.assert_allclose(gradient, want[1], atol=1e-10, err_msg=name)
    assert np.all(found["vimco"][2] < 0.5 * found["score_function"][2])


# The formula of one bound.


def by_definition(log_w, alpha):
    log_w, power = np.asarray(log_w, np.longdouble), np.longdouble(1) - np.longdouble(alpha)
    if power == 0:
        return log_w.mean()
    return (np.logaddexp.reduce(power * log_w) - np.log(np.longdouble(len(log_w)))) / power


def cumulants(log_w, alpha):
    """The bound, to fourth order in 1 - alpha."""
    off, power = np.asarray(log_w, float) - np.mean(log_w), 1 - alpha
    k2, k3 = np.mean(off**2), np.mean(off**3)
    k4 = np.mean(off**4) - 3 * k2**2
    return np.mean(log_w) + power / 2 * k2 + power**2 / 6 * k3 + power**3 / 24 * k4


LOG_W = [1.0, -2.0, 0.5, 3.0]


def test_alpha_near_1():
    """In 32 bits, continuous through alpha = 1: value, weights and slope in alpha to 2e-5 of those of the series."""
    alphas = 1 + np.concatenate([s * np.array([1e-30, 1e-8, 1e-5, 1e-3, 3e-3, 4e-3, 5e-3, 1e-2]) for s in (-1, 0, 1)])
    alphas = np.float32(alphas)
    log_w = jnp.array(LOG_W)
    of = jax.vmap(jax.value_and_grad(renyi_of, (0, 1)), (None, 0))
    value, (weights, slope) = jax.jit(of)(log_w, jnp.asarray(alphas))
    want = np.array([cumulants(LOG_W, float(a)) for a in alphas])
    np.testing.assert_allclose(value, want, rtol=2e-5)
    u = np.exp((1 - alphas.astype(float))[:, None] * np.array(LOG_W))
    np.testing.assert_allclose(weights, u / u.sum(1, keepdims=True), rtol=2e-5)
    step = 1e-5
    slopes = np.array(
        [(cumulants(LOG_W, a + step) - cumulants(LOG_W, a - step)) / (2 * step) for a in alphas.astype(float)]
    )
    np.testing.assert_allclose(slope, slopes, rtol=2e-3)


@pytest.mark.parametrize(
    "log_w",
    [LOG_W, [700.0, -900.0, 100.0], [-1e4, -1.2e4, 3.0, 3.0], [2.0], [5.0, 5.0, 5.0], [0.0] * 999 + [30.0]],
    ids=lambda w: f"{len(w)} weights",
)
def test_the_formula_in_the_tails(log_w):
    """In 32 bits, whatever the sizes of the weights: to 1e-6. One sample, or equal weights, give the log weight."""
    alphas = np.array([-2.0, 0.0, 0.3, 0.99, 1.0, 1.01, 2.0, 5.0], np.float32)
    value, weights = jax.jit(jax.vmap(jax.value_and_grad(renyi_of), (None, 0)))(jnp.array(log_w), jnp.asarray(alphas))
    np.testing.assert_allclose(
        value, [by_definition(log_w, a) for a in alphas], rtol=2e-6, atol=1e-6 * np.abs(log_w).max()
    )
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-4)


def test_weights_of_zero():
    """They count for alpha < 1, as they should. For alpha >= 1 the bound is -inf. All of them: always -inf."""
    alphas = jnp.array([0.5, 0.99999, 1.0, 1.00001, 2.0])
    some, every = jnp.array([1.0, -jnp.inf, 2.0]), jnp.full(3, -jnp.inf)
    of = jax.jit(lambda x: jax.vmap(jax.value_and_grad(renyi_of, (0, 1)), (None, 0))(x, alphas))
    value, (weights, slope) = of(some)
    np.testing.assert_allclose(value[0], 2 * np.log((np.exp(0.5) + np.exp(1.0)) / 3), rtol=1e-6)
    np.testing.assert_array_equal(np.isneginf(value), [False, False, True, True, True])
    u = 1 / (1 + np.exp(0.5))
    np.testing.assert_allclose(weights[0], [u, 0, 1 - u], rtol=1e-6)
    assert np.isfinite(slope[0])
    np.testing.assert_array_equal(np.isneginf(of(every)[0]), True)
    assert np.all(np.isnan(of(jnp.array([1.0, jnp.nan]))[0]))


def test_order_and_limits():
    """The bound falls with alpha, and with K it rises for alpha < 1 and falls for alpha > 1. By quadrature, and for
    q = N(2, 1) and p = N(0, 1) it tends to minus the divergence, 2 alpha."""
    with jax.enable_x64(True):
        of = jax.jit(lambda p: [jax.vmap(lambda a, k=k: quadrature(p, k, a))(jnp.asarray(ALPHAS)) for k in (1, 2, 3)])
        one, two, three = map(np.asarray, of({name: jnp.asarray(value) for name, value in AT.items()}))
    assert np.ptp(one) < 1e-12
    assert np.all(np.diff(two) < 0)
    for a, b in ((one, two), (two, three)):
        assert np.all((b > a)[:2])
        assert abs(b[2] - a[2]) < 1e-12
        assert b[3] < a[3]
    log_p, q = dist.Normal(0.0, 1.0).log_prob, dist.Normal(2.0, 1.0)
    value = jax.jit(lambda: rgrad.renyi(log_p, q, jax.random.key(0), 100_000, 4, alpha=0.5))()
    assert float(value) == pytest.approx(-1.0, abs=0.05)


def test_if_q_is_p_the_doubly_reparameterized_gradient_is_0():
    q = lambda t: dist.Normal(t, 1.0)
    log_p = dist.Normal(0.7, 1.0).log_prob
    loss = lambda t, alpha: rgrad.renyi(log_p, q(t), jax.random.key(0), 4, 3, "doubly_reparameterized", alpha=alpha)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(0.7, jnp.asarray(ALPHAS)), 0.0)


def test_bad_input():
    q, key = dist.Normal(0.0, 1.0), jax.random.key(0)
    log_p = dist.Normal(0.0, 1.0).log_prob
    for alpha, kind, match in (
        ("half", TypeError, "renyi: alpha must be a real number, got 'half'"),
        (1j, TypeError, "renyi: alpha must be a real number"),
        (True, TypeError, "renyi: alpha must be a real number"),
        (float("nan"), ValueError, "renyi: alpha must be one finite number"),
        (jnp.ones(2), ValueError, "renyi: alpha must be one finite number"),
    ):
        with pytest.raises(kind, match=match):
            rgrad.renyi(log_p, q, key, 2, alpha=alpha)
    with pytest.raises(ValueError, match="renyi: alpha must be one number, got shape"):
        jax.jit(lambda a: rgrad.renyi(log_p, q, key, 2, alpha=a))(jnp.ones(2))
    with pytest.raises(ValueError, match="renyi: k must be at least 1, got 0"):
        rgrad.renyi(log_p, q, key, 0, alpha=0.5)
    with pytest.raises(ValueError, match="vimco: k must be at least 2"):
        rgrad.renyi(log_p, q, key, 1, gradient="vimco", alpha=0.5)
    with pytest.raises(ValueError, match=r"renyi: unknown gradient 'vimc0'; did you mean 'vimco'\?"):
        rgrad.renyi(log_p, q, key, 2, gradient="vimc0", alpha=0.5)
    with pytest.raises(ValueError, match=r"renyi, with f = log_p - log q: f must return a scalar"):
        rgrad.renyi(lambda x: jnp.ones(2) * x, q, key, 2, alpha=0.5)
    with pytest.raises(NotImplementedError, match="doubly_reparameterized: its gradient is right to first order only"):
        jax.eval_shape(
            jax.hessian(
                lambda t: rgrad.renyi(log_p, dist.Normal(t, 1.0), key, 2, 1, "doubly_reparameterized", alpha=0.5)
            ),
            0.3,
        )
