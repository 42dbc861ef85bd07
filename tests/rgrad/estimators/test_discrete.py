"""Estimators for discrete distributions. Exact if possible: the noise of a call is replaced by the nodes of a rule."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from scipy.integrate import quad
from scipy.special import expit, logit

import rgrad
from rgrad.distributions.keyed import WithKey
from rgrad.distributions.relaxations import OneHotCategorical, relaxation
from rgrad.estimators.arm import arm, disarm
from rgrad.estimators.enumerated import enumerated
from rgrad.estimators.gumbel_rao import gumbel_rao
from rgrad.estimators.rebar import rebar, relax
from rgrad.estimators.reinmax import reinmax
from rgrad.estimators.relaxed import gumbel_softmax, straight_through
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
UNBIASED = {
    "enumerated": enumerated,
    "score_function+leave_one_out": leave_one_out,
    "arm": arm,
    "disarm": disarm,
    "rebar": partial(rebar, eta=0.7, temperature=0.4),
    "relax+own": partial(relax, control_variate=lambda z: 0.3 * jnp.mean(jnp.tanh(z))),
}
ESTIMATORS = UNBIASED | {
    "gumbel_softmax": gumbel_softmax,
    "straight_through": straight_through,
    "straight_through+temperature": partial(straight_through, temperature=0.5),
    "reinmax": reinmax,
    "gumbel_rao": partial(gumbel_rao, samples=2),
}
BITS_ONLY = ("arm", "disarm")
FIRST_ORDER = ("arm", "disarm", "straight_through", "straight_through+temperature", "reinmax", "gumbel_rao")

DERIVATIVES = (lambda g: g, jax.grad, lambda g: jax.grad(jax.grad(g)))
P = np.array([0.2, 0.5, 0.8])  # many fits start at a logit of exactly 0
BY = {"probs": (lambda p: dist.Bernoulli(probs=p), P), "logits": (lambda a: dist.Bernoulli(logits=a), logit(P))}


def functions(x):
    return jnp.array([7.0 * x - 3, (x + 1.0) ** 2, jnp.sqrt(x + 1.0)])


def of_one_bit(expectation, order, *options):
    """The value of `expectation(f, q)` and derivatives up to an order, for both of `BY`, all of P and three functions.

    f also depends on the parameter. With options, arrays of the same length, it is `expectation(f, q, *option)`.
    """

    def all_orders(build, i, t, *option):
        g = lambda t: expectation(lambda x: functions(x)[i] * (1 + t) + x * t**2, build(t), *option)
        return [g(t), *(derivative(g)(t) for derivative in DERIVATIVES[1 : order + 1])]

    with jax.enable_x64(True):
        axes = (None,) * len(options)
        options = [jnp.asarray(option, float) for option in options]

        def over(build):
            each = jax.vmap(jax.vmap(partial(all_orders, build), (0, None, *axes)), (None, 0, *axes))
            return jax.vmap(each, (None, None, *(0 for _ in options))) if options else each

        at = {by: (over(build), jnp.asarray(thetas, float)) for by, (build, thetas) in BY.items()}
        return jax.jit(lambda: {by: each(jnp.arange(3), thetas, *options) for by, (each, thetas) in at.items()})()


def assert_same(got, want, **tolerance):
    for by in want:
        for order, (a, b) in enumerate(zip(got[by], want[by], strict=True)):
            np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), err_msg=f"{by}, derivative {order}", **tolerance)


def closed_form(f, q):
    return q.mean * f(1) + (1 - q.mean) * f(0)


@pytest.fixture
def noise(monkeypatch):
    """`noise(name, nodes, ...)`: the next calls of `jax.random.name` return these nodes, in turn."""

    def use(name, *nodes):
        left = list(nodes)

        def given(key, shape, dtype):
            assert left[0].shape == shape, (left[0].shape, shape)
            return left.pop(0)

        monkeypatch.setattr(jax.random, name, given)

    return use


def gauss(*edges, nodes):
    """Gauss's rule on the pieces between the edges: nodes and weights."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    pieces = list(itertools.pairwise(edges))
    place = [a + (b - a) * (x + 1) / 2 for a, b in pieces]
    return jnp.concatenate(place), jnp.concatenate([(b - a) * w / 2 for a, b in pieces])


def product(*rules):
    """Combines rules for independent coordinates into one rule: nodes `(N, D)`, weights `(N,)`."""
    nodes = jnp.meshgrid(*(x for x, _ in rules), indexing="ij")
    weights = jnp.meshgrid(*(w for _, w in rules), indexing="ij")
    return jnp.stack([x.ravel() for x in nodes], -1), jnp.stack([w.ravel() for w in weights], -1).prod(-1)


def thirds(p):
    """Exact for functions that are linear in u between p, 1 - p and the ends: ARM in each of its coordinates."""
    return gauss(0.0, jnp.minimum(p, 1 - p), jnp.maximum(p, 1 - p), 1.0, nodes=1)


@pytest.fixture(autouse=True, scope="module")
def fast_to_compile():
    """These tests spend their time compiling, not running."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# One bit: exact.


def test_enumerated_is_the_closed_form_to_second_order():
    mean = lambda f, q: rgrad.expect(f, q, KEY, 3, enumerated)
    assert_same(of_one_bit(mean, 2), of_one_bit(closed_form, 2), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("estimator", [arm, disarm])
def test_antithetic_is_unbiased(estimator, noise):
    """To 1e-10. f differs within the pair by 0.4 to 7, so any wrong factor is caught."""

    def mean(f, q):
        u, w = thirds(jax.lax.stop_gradient(q.probs))
        noise("uniform", u)
        return w @ estimator(f, q, KEY, len(w))

    assert_same(of_one_bit(mean, 1), of_one_bit(closed_form, 1), rtol=1e-10, atol=1e-10)


def two_uniforms(p, nodes):
    """Gauss's rule for the two uniforms of a sample, separately on both sides of the point where the bit changes."""
    return gauss(0.0, 1 - p, 1.0, nodes=nodes), gauss(0.0, 1.0, nodes=nodes)


def test_rebar_is_unbiased_to_second_order(noise):
    """To 1e-8, for two pairs of eta and temperature. The control variate changes single terms by more than 0.1."""

    def mean(f, q, eta, temperature):
        uv, w = product(*two_uniforms(jax.lax.stop_gradient(q.probs), 16))
        noise("logistic", *logit_of(uv).T)
        return w @ rebar(f, q, KEY, len(w), eta=eta, temperature=temperature)

    got = of_one_bit(mean, 2, [1.0, -0.6], [0.5, 1.0])
    assert_same(got, of_one_bit(closed_form, 2), rtol=1e-8, atol=1e-8)


def test_relax_is_unbiased_to_second_order(noise):
    """With a user's own control variate."""

    def mean(f, q):
        uv, w = product(*two_uniforms(jax.lax.stop_gradient(q.probs), 12))
        noise("logistic", *logit_of(uv).T)
        return w @ relax(f, q, KEY, len(w), control_variate=lambda z: 2 * jax.nn.sigmoid(z) ** 3 - 1)

    assert_same(of_one_bit(mean, 2), of_one_bit(closed_form, 2), rtol=1e-8, atol=1e-8)


def test_relax_is_rebar_by_default():
    gradient = lambda e: jax.jacfwd(lambda a: e(lambda x: (x + 1) ** 2, dist.Bernoulli(logits=a), KEY, 3))(0.3)
    np.testing.assert_array_equal(*jax.jit(lambda: (gradient(relax), gradient(rebar)))())


def test_the_values_of_rebar_are_those_of_f():
    terms = jax.jit(lambda: rebar(lambda x: 10 * x + 0.5, dist.Bernoulli(probs=0.4), KEY, 50))()
    np.testing.assert_allclose(np.unique(terms.round(4)), [0.5, 10.5])


def logit_of(u):
    return jnp.log(u) - jnp.log1p(-u)


def test_gumbel_softmax_is_the_relaxed_expectation(noise):
    """The value, gradient and second derivative of E[f(sigmoid((a + L) / T))], L logistic, to 1e-9."""
    eps, w = logistic_rule()

    def mean(f, q):
        noise("logistic", eps)
        return w @ gumbel_softmax(f, q, KEY, len(w))

    by_hand = lambda f, q: w @ jax.vmap(f)(1 / (1 + jnp.exp(-(jnp.log(q.probs / (1 - q.probs)) + eps) / 0.5)))
    assert_same(of_one_bit(mean, 2), of_one_bit(by_hand, 2), rtol=1e-9, atol=1e-9)


def logistic_rule():
    """The trapezoidal rule for a logistic variable with 2000 nodes, exact to 1e-14 for analytic functions."""
    eps = np.arange(-36, 36, 0.036)
    return eps, 0.036 * expit(eps) * expit(-eps)


def test_the_bias_of_gumbel_softmax_exists_and_shrinks_with_the_temperature(noise, x64):
    """The bias of d/dlogit, exactly. With rho the density of the noise, the gradient is the integral of

        f'(s(y)) s'(y) rho(T y - a)

    over y. To second order the bias is T rho' m_1 + T^2 rho''/2 m_2, with m_k the k-th moment of f'(s(y)) s'(y) in y.
    """
    eps, w = logistic_rule()
    temperatures = 0.5 ** np.arange(5)

    def gradient(T, a, i):
        noise("logistic", eps)
        f = lambda x: functions(x)[i]
        return jax.grad(lambda a: w @ gumbel_softmax(f, dist.Bernoulli(logits=a), KEY, len(w), temperature=T))(a)

    over = lambda of, xs: jax.vmap(of)(jnp.asarray(xs))
    every = jax.jit(
        lambda: over(lambda T: over(lambda a: over(partial(gradient, T, a), range(3)), logit(P)), temperatures)
    )
    variance = (P * (1 - P))[:, None]
    truth = variance * np.diff(functions_at(np.arange(2)))[:, 0]
    bias = every() - truth

    s = expit(eps)
    slopes = np.array([7.0 + 0 * s, 2 * (s + 1), 0.5 / np.sqrt(s + 1)]) * w  # the weights include s'
    first, second = slopes @ eps, slopes @ eps**2
    T, skew = temperatures[-1], 2 * P[:, None] - 1
    theory = variance * (T * skew * first + T**2 * (skew**2 - 2 * variance) * second / 2)
    np.testing.assert_allclose(bias[-1], theory, rtol=0.1)
    assert np.all(np.abs(bias[0]) > 0.05 * truth)
    assert np.all(np.diff(np.abs(bias).max((1, 2))) < 0)


def functions_at(x):
    return np.array([7.0 * x - 3, (x + 1) ** 2, np.sqrt(x + 1)])


def test_the_sampled_bias_of_gumbel_softmax():
    """f = (x + 1)^2 at p = 0.2, T = 1: the mean gradient in the logit is that of quadrature, not 3 p (1 - p) = 0.48."""
    eps, w = logistic_rule()
    s = expit(logit(0.2) + eps)
    relaxed = w @ (2 * (s + 1) * s * (1 - s))
    assert abs(relaxed - 0.48) > 0.02
    draw = jax.grad(
        lambda a, key: rgrad.expect(
            lambda x: (x + 1) ** 2, dist.Bernoulli(logits=a), key, 20, partial(gumbel_softmax, temperature=1.0)
        )
    )
    assert_unbiased(lambda key: draw(logit(0.2), key), relaxed, smallest_bias=0.01)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(lambda key: draw(logit(0.2), key), 0.48, smallest_bias=0.01)


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_straight_through_has_the_value_and_the_bias_of_its_formula(temperature, noise):
    """E[f'(b) dp], or E[f'(b) d sigmoid(z / T)] by quadrature, to 1e-8. For a square it is off by (2 p - 1) f''/2."""

    def mean(f, q):
        p = jax.lax.stop_gradient(q.probs)
        u, w = gauss(0.0, 1 - p, 1.0, nodes=40)
        noise("logistic", logit_of(u))
        return w @ straight_through(f, q, KEY, len(w), temperature=temperature)

    got, truth = of_one_bit(mean, 1), of_one_bit(closed_form, 1)
    slopes = np.array([[7.0, 7.0], [2.0, 4.0], [0.5, 0.5 / np.sqrt(2)]])  # at 0 and 1
    for by, (_, thetas) in BY.items():
        np.testing.assert_allclose(got[by][0], truth[by][0], rtol=1e-10)
        for j, p in enumerate(P):
            t = float(thetas[j])
            da = 1.0 if by == "logits" else 1 / (p * (1 - p))
            weights = np.array([1 - p, p]) * p * (1 - p) if temperature is None else expected_slope(p, temperature)
            pathwise = (slopes * (1 + t) + t**2) @ weights * da
            own = np.array([1 - p, p]) @ functions_at(np.arange(2)).T + 2 * t * p  # f's own derivative in t
            np.testing.assert_allclose(got[by][1][j], pathwise + own, rtol=1e-8)
            if temperature is None:
                bias = (1 + t) * (2 * p - 1) * p * (1 - p) * da
                np.testing.assert_allclose(got[by][1][j, 1] - truth[by][1][j, 1], bias, atol=1e-8)


def expected_slope(p, T):
    """E[d sigmoid(z / T) / da; b = 0 and b = 1]."""
    slope = lambda u: expit(logit(p) / T + logit(u) / T) * expit(-(logit(p) + logit(u)) / T) / T
    return np.array([quad(slope, 0, 1 - p, epsabs=1e-10)[0], quad(slope, 1 - p, 1, epsabs=1e-10)[0]])


# Vectors.


def toy(target, b):
    """The objective of the papers. The closer `target` is to 1/2, the less the values reveal about the gradient."""
    return jnp.mean((b - target) ** 2)


@pytest.mark.parametrize("bits", [2, pytest.param(8, marks=pytest.mark.long)])
@pytest.mark.parametrize("estimator", ["enumerated", "arm", "disarm"])
def test_the_toy_exactly(estimator, bits, noise, x64):
    """Gradients d/dlogit = p (1 - p) (1 - 2 t) / D of 6e-5 to 0.003, to 1e-12."""
    p = jnp.linspace(0.2, 0.8, bits)

    @jax.jit
    def gradients(target):
        def loss(a):
            q = dist.Bernoulli(logits=a).to_event(1)
            if estimator == "enumerated":
                return rgrad.expect(partial(toy, target), q, KEY, 1, enumerated)
            u, w = product(*(thirds(x) for x in p))
            noise("uniform", u)
            return w @ UNBIASED[estimator](partial(toy, target), q, KEY, len(w))

        return jax.grad(loss)(jnp.log(p / (1 - p)))

    for target in (0.499, 0.45):
        np.testing.assert_allclose(gradients(target), p * (1 - p) * (1 - 2 * target) / bits, atol=1e-12)


def test_rebar_of_two_bits_exactly(noise, x64):
    """To 1e-7, for gradients of 0.005 to 1.3, in four dimensions. f has an interaction."""
    p, f = jnp.array([0.2, 0.7]), lambda x: 3 * x[0] * x[1] ** 2 - x[0] + toy(0.45, x)

    def loss(a):
        uv, w = product(*(rule for x in p for rule in two_uniforms(x, 8)))
        noise("logistic", logit_of(uv[:, ::2]), logit_of(uv[:, 1::2]))
        return w @ rebar(f, dist.Bernoulli(logits=a).to_event(1), KEY, len(w), temperature=1.0)

    a = jnp.log(p / (1 - p))
    exact = lambda a: rgrad.expect(f, dist.Bernoulli(logits=a).to_event(1), KEY, 1, enumerated)
    np.testing.assert_allclose(*jax.jit(lambda a: (jax.grad(loss)(a), jax.grad(exact)(a)))(a), atol=1e-7)


def test_disarm_is_arm_given_the_pair(noise, x64):
    """So its variance is smaller, exactly, for one bit."""
    f = lambda x: (x - 0.45) ** 2
    for p in (0.2, 0.4, 0.8):
        u, w = gauss(0.0, min(p, 1 - p), max(p, 1 - p), 1.0, nodes=2)
        variance = {}
        for estimator in (arm, disarm):
            noise("uniform", u)
            each = jax.jit(jax.jacfwd(lambda a: estimator(f, dist.Bernoulli(logits=a), KEY, len(w))))(logit(p))
            variance[estimator] = w @ each**2 - (w @ each) ** 2
        assert 0 < variance[disarm] < 0.99 * variance[arm]


def test_the_toy_by_sampling():
    """Leave-one-out, eight bits, target 0.45. Catches 3e-4 in gradients of 0.002 to 0.003."""
    p = np.linspace(0.2, 0.8, 8)
    q = lambda a: dist.Bernoulli(logits=a).to_event(1)
    draw = jax.grad(lambda a, key: rgrad.expect(partial(toy, 0.45), q(a), key, 50, leave_one_out))
    assert_unbiased(lambda key: draw(logit(p), key), p * (1 - p) * 0.1 / 8, smallest_bias=3e-4, replicates=10_000)


VECTORS = {
    "bits": (
        lambda a: dist.Bernoulli(logits=a).to_event(1),
        lambda x: (x @ jnp.array([1.0, 2.0, 3.0]) / 3 - 0.5) ** 2,
        logit(np.array([0.2, 0.6, 0.8])),
    ),
    "one-hot": (
        lambda a: OneHotCategorical(a).to_event(1),
        lambda x: jnp.sum(x * jnp.array([[1.0, -2.0, 3.5], [0.5, 1.0, 2.0]])) ** 2 / 8,
        np.array([[0.3, -0.5, 0.1], [1.0, 0.0, -1.0]]),
    ),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_are_unbiased(kind):
    """With their own noise, which would reveal a key that is used twice. Catches 0.02 in gradients up to 0.4."""
    build, f, a = VECTORS[kind]
    names = [name for name in UNBIASED if kind == "bits" or name not in BITS_ONLY]
    loss = lambda a, key, name: rgrad.expect(f, build(a), key, 10, UNBIASED[name])
    truth = jax.jit(lambda: jax.grad(loss)(a, KEY, "enumerated"))()
    draw = lambda key: {name: jax.grad(loss)(a, key, name) for name in names}
    assert_unbiased(draw, dict.fromkeys(names, truth), smallest_bias=0.02)


def test_the_conditional_noise_has_the_distribution_of_the_noise():
    """Noise drawn given the sample has the mean and mean square of the sample's own noise. Catches 0.05."""
    for build, _, a in VECTORS.values():
        how = relaxation(build(jnp.asarray(a)), "test")

        def difference(key):
            for_z, again = jax.random.split(key)
            z = how.sample(for_z, 10)
            new = how.given(how.hard(z), again)
            return jnp.stack([(new - z).mean(0), (jnp.tanh(new) ** 2 - jnp.tanh(z) ** 2).mean(0)])

        np.testing.assert_array_equal(how.hard(z := how.sample(KEY, 100)), how.hard(how.given(how.hard(z), KEY)))
        assert_unbiased(difference, np.zeros((2, *np.shape(a))), smallest_bias=0.05)


# The score function for each discrete distribution, and for vectors of them.


def at(q, samples):
    """`q` with the given samples."""
    q.sample = lambda key, shape: samples
    return q


COUNTS = {
    "Bernoulli": (lambda t: dist.Bernoulli(probs=t), 0.3, range(2)),
    "Categorical": (lambda t: dist.Categorical(probs=jnp.array([t, 0.5 - t, 0.5])), 0.3, range(3)),
    "Bernoulli at logit 0": (lambda t: dist.Bernoulli(logits=t), 0.0, range(2)),
    "Binomial at logit 0": (lambda t: dist.Binomial(4, logits=t), 0.0, range(5)),
    "Poisson": (lambda t: dist.Poisson(t), 1.5, range(25)),
    "Binomial": (lambda t: dist.Binomial(4, probs=t), 0.3, range(5)),
    "Geometric": (lambda t: dist.Geometric(probs=t), 0.7, range(32)),
    "vector of Bernoullis": (
        lambda t: dist.Bernoulli(logits=t * jnp.array([1.0, -0.5, 2.0])).to_event(1), 0.4,
        list(itertools.product(range(2), repeat=3)),
    ),
    "vector of Categoricals": (
        lambda t: dist.Categorical(logits=t * jnp.array([[1.0, -0.5, 2.0], [0.0, 1.0, 0.3]])).to_event(1), 0.4,
        list(itertools.product(range(3), repeat=2)),
    ),
    "vector of Binomials": (
        lambda t: dist.Binomial(np.array([1, 3]), probs=t).to_event(1), 0.3,
        list(itertools.product(range(2), range(4))),
    ),
    "vector of Poissons": (
        lambda t: dist.Poisson(t * jnp.array([1.0, 0.3])).to_event(1), 0.3,
        list(itertools.product(range(10), range(8))),
    ),
    "vector of Geometrics": (
        lambda t: dist.Geometric(probs=t * jnp.array([1.0, 1.04])).to_event(1), 0.95,
        list(itertools.product(range(10), range(8))),
    ),
}  # fmt: skip
BASELINES = {
    "none": 0.0,
    "leave one out": rgrad.leave_one_out,
    "moving average": rgrad.moving_average(0.5).update(1.5),
}


def probabilities(q, values):
    """Computed from probs: NumPyro's derivative in logits is wrong at 0 (see `rgrad.distributions.log_density`)."""
    if isinstance(q, dist.BernoulliLogits | dist.BinomialLogits):
        p = jax.nn.sigmoid(q.logits)
        q = dist.Binomial(q.total_count, probs=p) if hasattr(q, "total_count") else dist.Bernoulli(probs=p)
    return jnp.exp(jax.vmap(q.log_prob)(values))


SLOW = {"Geometric", "vector of Categoricals", "vector of Binomials", "vector of Poissons", "vector of Geometrics"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW else n for n in COUNTS])
def test_score_function_over_all_pairs_of_samples(name, x64):
    """Value, gradient and second derivative with every baseline, to 1e-7. (Countable supports are truncated below it.)"""
    build, t, values = COUNTS[name]
    values, t = jnp.array(values), jnp.asarray(t, float)
    f = lambda t, x: jnp.sqrt(1.0 + jnp.sum(x**2)) + t * jnp.sum(x)
    pairs = jnp.stack(jnp.meshgrid(jnp.arange(len(values)), jnp.arange(len(values)), indexing="ij"), -1).reshape(-1, 2)
    exact = lambda t: probabilities(build(t), values) @ jax.vmap(partial(f, t))(values)

    @jax.jit
    def both():
        weight = probabilities(build(t), values)[pairs].prod(-1)

        def mean(t, baseline):
            estimator = partial(rgrad.score_function, baseline=baseline)
            call = lambda pair: rgrad.expect(partial(f, t), at(build(t), values[pair]), KEY, 2, estimator)
            return weight @ jax.vmap(call)(pairs)

        derivatives = lambda g: [derivative(g)(t) for derivative in DERIVATIVES]
        return [derivatives(lambda t, b=b: mean(t, b)) for b in BASELINES.values()], derivatives(exact)

    found, truth = both()
    for baseline, got in zip(BASELINES, found, strict=True):
        np.testing.assert_allclose(got, truth, rtol=1e-7, atol=1e-7, err_msg=baseline)


def test_score_function_on_what_numpyro_draws():
    """Gradients of 1 to 4. Catches 0.25."""
    problems = {
        "Poisson": (lambda t: dist.Poisson(t), lambda x: x**2, 1.5, lambda t: t + t**2),
        "Binomial": (lambda t: dist.Binomial(4, probs=t), lambda x: x, 0.1, lambda t: 4 * t),
        "Geometric": (lambda t: dist.Geometric(probs=t), lambda x: x, 0.6, lambda t: 1 / t - 1),
        "Categorical": (
            lambda t: dist.Categorical(probs=jnp.array([t, 0.5 - t, 0.5])), lambda x: (x - 1) * (x + 1), 0.2,
            lambda t: 1.5 - t,
        ),
        "vector": (
            lambda t: dist.Geometric(probs=t * jnp.ones(2)).to_event(1), lambda x: x[0] * x[1], 0.7,
            lambda t: (1 / t - 1) ** 2,
        ),
    }  # fmt: skip

    def draw(key):
        return {
            name: jax.grad(lambda t, build=build, f=f: rgrad.expect(f, build(t), key, 20, leave_one_out))(t)
            for name, (build, f, t, _) in problems.items()
        }

    truth = {name: jax.jit(jax.grad(exact))(t) for name, (_, _, t, exact) in problems.items()}
    assert_unbiased(draw, truth, smallest_bias=0.25, replicates=10_000)


def test_score_function_keeps_the_width_of_values():
    """A function of integers with value 1234.667, which is 1235 in 16 bits."""
    value = rgrad.expect(lambda x: 1234.567 * x + 0.1, dist.DiscreteUniform(1, 1), KEY, 1, rgrad.score_function)
    assert float(value) == pytest.approx(1234.667, rel=1e-6)


# Enumeration.


@pytest.mark.parametrize("name", [name for name in COUNTS if "Poisson" not in name and "Geometric" not in name])
def test_enumerated_on_each_finite_distribution(name, x64):
    """Value, gradient and Hessian against the explicit sum, to 1e-10."""
    build, t, values = COUNTS[name]
    values = jnp.array(values)
    f = lambda t, x: jnp.sqrt(1.0 + jnp.sum(x**2)) + t * jnp.sum(x)
    exact = lambda t: probabilities(build(t), values) @ jax.vmap(partial(f, t))(values)
    found = lambda t: rgrad.expect(partial(f, t), build(t), KEY, 2, enumerated)
    got, want = jax.jit(lambda t: [[derivative(g)(t) for derivative in DERIVATIVES] for g in (found, exact)])(t)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


def test_enumerated_supports(x64):
    """Nested and expanded events, supports that start elsewhere or differ, a user's own: probabilities sum to 1."""

    class Die:
        has_rsample = False

        def sample(self, key, shape):
            return jax.random.randint(key, shape, 1, 7)

        def log_prob(self, x):
            return jnp.full(jnp.shape(x), -jnp.log(6.0))

        def enumerate_support(self):
            return jnp.arange(1, 7)

    a = jnp.array([[0.3, -0.5, 0.1], [1.0, 0.0, -1.0]])
    cases = {
        "nested": (dist.Bernoulli(probs=jnp.full((2, 3), 0.2)).to_event(1).to_event(1), 1.2),
        "expanded": (dist.Bernoulli(0.2).expand([3]).to_event(1), 0.6),
        "DiscreteUniform": (dist.DiscreteUniform(2, 5), 3.5),
        "counts that differ": (dist.Binomial(np.array([2, 5]), 0.2).to_event(1), 1.4),
        "one-hot": (OneHotCategorical(a).to_event(1), 2.0),
        "a user's own": (Die(), 3.5),
        "Multinomial": (dist.Multinomial(4, jnp.array([0.2, 0.3, 0.5])), 4.0),
        "counts of classes that differ": (dist.Multinomial(np.array([1, 3]), jnp.ones(3) / 3).to_event(1), 4.0),
        "DirichletMultinomial": (dist.DirichletMultinomial(jnp.array([1.0, 2.0]), 5).expand([2]).to_event(1), 10.0),
        "a mixture": (
            dist.MixtureGeneral(
                dist.Categorical(jnp.array([0.3, 0.7])), [dist.Binomial(3, 0.2), dist.Binomial(3, 0.5)]
            ),
            1.23,
        ),
    }
    for name, (q, mean) in cases.items():
        of = lambda f, q=q: rgrad.expect(f, q, KEY, 1, enumerated)
        np.testing.assert_allclose(
            jax.jit(lambda: (of(lambda x: 1.0), of(jnp.sum)))(), (1.0, mean), rtol=1e-12, err_msg=name
        )


def test_enumerated_gives_n_equal_terms_and_ignores_what_cannot_happen():
    terms = jax.jit(lambda: enumerated(lambda x: x**2, dist.Binomial(3, 0.5), KEY, 4))()
    np.testing.assert_allclose(terms, np.full(4, 3.0), rtol=1e-6)
    assert np.ptp(terms) == 0
    noisy = lambda pair: pair[0] + jax.random.normal(pair[1])
    keyed = jax.jit(lambda: enumerated(noisy, WithKey(dist.Bernoulli(0.5)), KEY, 4))()
    assert len(np.unique(keyed)) == 4

    def entropy(a):
        q = dist.Categorical(logits=jnp.array([0.0, 0.0, -jnp.inf]) + a, validate_args=False)
        return rgrad.expect(lambda x: -q.log_prob(x), q, KEY, 1, enumerated)

    value, gradient = jax.jit(jax.value_and_grad(entropy))(jnp.zeros(3))
    np.testing.assert_allclose([value, *gradient], [np.log(2), 0, 0, 0], atol=1e-6)


# Graphs of two and three variables, with a separate estimator at each site.

A, B = np.array([0.3, -0.5, 0.1]), np.array([[0.5, -0.5, 0.0], [1.0, 0.2, -0.3], [-0.4, 0.6, 0.9]])
C, F = np.array([0.6, -0.8, 0.2]), np.random.default_rng(0).normal(size=(3, 3, 2))
THETA = {"a": A, "b": B, "c": C}


def chain(theta, key, sites):
    """a ~ Categorical, b | a ~ Categorical, c | b ~ Bernoulli. f is a table of the three."""
    first, second, third = sites
    table = lambda a, b, c: jnp.einsum("ijk,i,j,k->", jnp.asarray(F), a, b, jnp.stack([1 - c, c]))

    def given_a(a, key):
        def given_b(b, key):
            return rgrad.expect(lambda c: table(a, b, c) + c * c, dist.Bernoulli(logits=b @ theta["c"]), key, 2, third)

        return rgrad.expect(given_b, OneHotCategorical(a @ theta["b"]), key, 2, second, keyed=True)

    return rgrad.expect(given_a, OneHotCategorical(theta["a"]), key, 4, first, keyed=True)


def pair(theta, key, sites):
    """c ~ Bernoulli, a | c ~ Categorical."""
    first, second = sites
    table = lambda a, c: jnp.einsum("ij,i,j->", jnp.asarray(F[:, 0]), a, jnp.stack([1 - c, c]))

    def given_c(c, key):
        return rgrad.expect(lambda a: table(a, c) ** 2, OneHotCategorical(theta["a"] + c * theta["c"]), key, 2, second)

    return rgrad.expect(given_c, dist.Bernoulli(logits=theta["b"][0, 0]), key, 4, first, keyed=True)


rebar_ = UNBIASED["rebar"]
CHAINS = [(leave_one_out, enumerated, arm), (rebar_, leave_one_out, enumerated)]
PAIRS = [(leave_one_out, enumerated), (disarm, rebar_)]


def test_graphs_by_enumeration_exactly(x64):
    """Gradient and Hessian of the nested sums against the joint sum, to 1e-10."""

    def joint(theta):
        p_a, p_b = jax.nn.softmax(theta["a"]), jax.nn.softmax(theta["b"])
        p_c = jnp.stack([jax.nn.sigmoid(-theta["c"]), jax.nn.sigmoid(theta["c"])], -1)
        return jnp.einsum("i,ij,jk,ijk->", p_a, p_b, p_c, F + np.arange(2))

    nested = lambda theta: chain(theta, KEY, (enumerated,) * 3)
    got, want = jax.jit(lambda: [(jax.grad(g)(THETA), jax.hessian(g)(THETA)) for g in (nested, joint)])()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), got, want)


@pytest.mark.parametrize(
    ("graph", "combinations"),
    [(pair, PAIRS), pytest.param(chain, CHAINS, marks=pytest.mark.long)],
    ids=["two", "three"],
)
def test_graphs_with_an_estimator_for_each_site(graph, combinations):
    """Catches 0.05 in any coordinate, in gradients up to 0.4."""
    exact = jax.jit(lambda: jax.grad(graph)(THETA, KEY, (enumerated,) * len(combinations[0])))()
    draw = lambda key: [jax.grad(graph)(THETA, key, sites) for sites in combinations]
    assert_unbiased(draw, [exact] * len(combinations), smallest_bias=0.05, replicates=10_000)


# Properties of all of them.


def all_of_them(t, key, f=lambda x: jnp.sum(x * jnp.array([1.0, 2.0])) ** 2, keyed=False):
    q = dist.Bernoulli(logits=t * jnp.array([1.0, -0.5])).to_event(1)
    return {name: rgrad.expect(f, q, key, 4, estimator, keyed=keyed) for name, estimator in ESTIMATORS.items()}


def test_transformations():
    """Gradients at three parameters with three keys are the same numbers by vmap and by scan."""
    ts, keys = jnp.array([0.5, 1.0, -2.0]), jax.random.split(KEY, 3)

    def scanned(ts):
        step = lambda carry, tk: (jax.tree.map(jnp.add, carry, all_of_them(*tk)), None)
        return jax.lax.scan(step, dict.fromkeys(ESTIMATORS, 0.0), (ts, keys))[0]

    got, want = jax.jit(lambda: (jax.vmap(jax.jacfwd(all_of_them))(ts, keys), jax.jacrev(scanned)(ts)))()
    for name in ESTIMATORS:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("x64", [False, True])
def test_the_width_is_that_of_the_parameters(x64):
    with jax.enable_x64(x64):
        for of in (all_of_them, jax.jacrev(all_of_them)):
            for name, x in jax.eval_shape(of, jnp.asarray(0.5), KEY).items():
                assert x.dtype == (jnp.float64 if x64 else jnp.float32), name


def test_objectives_may_return_integers_and_bools_and_take_a_key():
    """The same numbers as with floats, and as without a key. A step has no relaxed gradient."""
    kinds = {
        "float": (lambda x: jnp.where(x[0] > 0.5, 1.0, 0.0), False),
        "bool": (lambda x: x[0] > 0.5, False),
        "keyed int": (lambda x, key: (x[0] > 0.5).astype(int), True),
    }
    gradient = jax.jacrev(all_of_them)
    both = jax.jit(
        lambda: {kind: (all_of_them(0.7, KEY, *how), gradient(0.7, KEY, *how)) for kind, how in kinds.items()}
    )()
    for kind, name in itertools.product(("bool", "keyed int"), ESTIMATORS):
        if (kind, name) == ("keyed int", "score_function+leave_one_out"):
            continue  # its q.sample splits the key, so the samples differ
        got, want = ([order[name] for order in both[of]] for of in (kind, "float"))
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7, err_msg=f"{kind}, {name}")
    assert both["float"][1]["enumerated"] > 0.1
    assert both["float"][1]["gumbel_softmax"] == 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_second_derivatives_are_right_or_raise(name):
    """They are right to second order, see above. A parameter that only f uses can always be differentiated."""

    def loss(t, phi):
        f = lambda x: phi**2 * (x + 1) ** 2
        return rgrad.expect(f, dist.Bernoulli(probs=t), KEY, 4, ESTIMATORS[name])

    own = jax.jit(lambda: (jax.grad(loss, 1)(0.3, 2.0), jax.grad(jax.grad(loss, 1), 1)(0.3, 2.0)))()
    np.testing.assert_allclose(own[1], own[0] / 2.0, rtol=1e-5)
    for one, two in itertools.product((jax.grad, jax.jacfwd), repeat=2):
        twice = partial(jax.eval_shape, two(one(loss)), 0.3, 2.0)
        if name not in FIRST_ORDER:
            twice()
            continue
        with pytest.raises(NotImplementedError, match=r"first order only.* use score_function"):
            twice()


def test_rebar_trains_its_own_control_variate():
    """eta and log temperature, by Adam on the squared gradient, starting at eta = 0, the score function.

    The variance falls by a factor of two or more, outside intervals at level 1 - 1e-7. scan carries the state.
    """
    a = logit(np.array([0.2, 0.4, 0.6, 0.8]))

    def gradient(control, key):
        estimator = partial(rebar, eta=control["eta"], temperature=jnp.exp(control["log_temperature"]))
        q = lambda a: dist.Bernoulli(logits=a).to_event(1)
        return jax.grad(lambda a: rgrad.expect(partial(toy, 0.45), q(a), key, 1, estimator))(a)

    optimizer = optax.adam(0.1)

    def step(carry, key):
        control, state = carry
        square = lambda c: jnp.sum(jax.vmap(partial(gradient, c))(jax.random.split(key, 32)) ** 2) / 32
        updates, state = optimizer.update(jax.grad(square)(control), state)
        return (optax.apply_updates(control, updates), state), None

    start = {"eta": jnp.asarray(0.0), "log_temperature": jnp.asarray(0.0)}
    (trained, _), _ = jax.jit(partial(jax.lax.scan, step))((start, optimizer.init(start)), jax.random.split(KEY, 100))
    both = rgrad.measure(lambda key: [gradient(start, key), gradient(trained, key)], jax.random.key(1), 5_000)
    low, high = both.variance_interval(1 - 1e-7)
    assert np.all(low[0] > 2 * high[1]), (low, high, trained)


# Bad input.


def refused(error, match, q, estimator):
    for keyed in (False, True):
        f = (lambda x, k: jnp.sum(x)) if keyed else jnp.sum
        with pytest.raises(error, match=match):
            rgrad.expect(f, q, KEY, 4, estimator, keyed=keyed)


def test_enumerated_refuses():
    bits = dist.Bernoulli(logits=jnp.zeros(20)).to_event(1)
    refused(
        ValueError,
        r"Bernoulli has 2\^20 = 1,048,576 points, more than limit=65536; use score_function",
        bits,
        enumerated,
    )
    small = partial(enumerated, limit=7)
    refused(
        ValueError,
        r"2\^3 = 8 points, more than limit=7; .* raise the limit",
        dist.Bernoulli(jnp.ones(3) / 2).to_event(1),
        small,
    )
    refused(ValueError, "Categorical has 9 points, more than limit=7", dist.Categorical(logits=jnp.zeros(9)), small)
    countable = (dist.Poisson(1.0), dist.Geometric(0.3), dist.Poisson(jnp.ones(2)).to_event(1))
    for q in countable:
        refused(
            NotImplementedError,
            r"enumerated needs a finite support .* has none; use score_function",
            q,
            enumerated,
        )
    parts = [dist.Binomial(2, 0.3), dist.Binomial(3, 0.3)]
    refused(NotImplementedError, "has none; use score_function", dist.MixtureGeneral(dist.Categorical(jnp.ones(2) / 2), parts), enumerated)  # fmt: skip
    many = dist.Multinomial(100, jnp.ones(20) / 20)
    refused(ValueError, r"Multinomial has [\d,]{20,} points, more than limit=65536", many, enumerated)
    for q in (dist.Normal(0.0, 1.0), dist.Uniform(), dist.Dirichlet(jnp.ones(3))):
        refused(NotImplementedError, r"has none; use reparameterized.* score_function", q, enumerated)
    with pytest.raises(ValueError, match=r"total_count is an argument of jit.*Python int"):
        jax.jit(lambda m: rgrad.expect(jnp.sum, dist.Binomial(m, 0.3), KEY, 1, enumerated))(5)


@pytest.mark.parametrize(
    "name", [*BITS_ONLY, "rebar", "relax+own", "gumbel_softmax", "straight_through", "reinmax", "gumbel_rao"]
)
def test_the_others_refuse(name):
    estimator = ESTIMATORS[name]
    refused(
        NotImplementedError,
        rf"{name.removesuffix('+own')}.*Poisson.*score_function",
        dist.Poisson(1.0),
        estimator,
    )
    refused(NotImplementedError, r"Normal.* use reparameterized", dist.Normal(jnp.zeros(2), 1.0).to_event(1), estimator)
    refused(NotImplementedError, "score_function|OneHotCategorical", dist.Categorical(logits=jnp.zeros(3)), estimator)
    refused(ValueError, r"batch_shape \(2,\)", dist.Bernoulli(jnp.ones(2) / 2), estimator)
    with pytest.raises(ValueError, match="f must return a scalar"):
        rgrad.expect(lambda x: x, dist.Bernoulli(jnp.ones(2) / 2).to_event(1), KEY, 4, estimator)


@pytest.mark.parametrize("estimator", [gumbel_softmax, straight_through, reinmax, gumbel_rao, rebar])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), jnp.ones(2)], ids=str)
def test_temperatures_are_positive(estimator, temperature):
    with pytest.raises(ValueError, match=rf"{estimator.__name__}: temperature must be one number > 0"):
        rgrad.expect(lambda x: x, dist.Bernoulli(0.5), KEY, 2, partial(estimator, temperature=temperature))


def test_one_hot_is_a_categorical():
    a = jnp.array([0.3, -jnp.inf, 0.1])
    one_hot = partial(OneHotCategorical, validate_args=False)  # NumPyro rejects -inf, which excludes a class
    x = one_hot(a).sample(KEY, (1000,))
    np.testing.assert_array_equal(x.argmax(-1), dist.Categorical(logits=a, validate_args=False).sample(KEY, (1000,)))
    np.testing.assert_array_equal(x.sum(-1), 1.0)
    got, want = one_hot(a).log_prob(x), dist.Categorical(logits=a, validate_args=False).log_prob(x.argmax(-1))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # The optimal baseline knows that both are normalised for all logits. The samples are the same.
    optimal = lambda q, f: jax.grad(
        lambda a: rgrad.expect(f, rgrad.jax_random(q(a)), KEY, 20, "score_function+optimal")
    )(jnp.array([0.3, 0.2]))
    of_both = jax.jit(
        lambda: (optimal(one_hot, lambda x: x[1]), optimal(lambda a: dist.Categorical(logits=a), lambda i: i * 1.0))
    )
    np.testing.assert_allclose(*of_both(), rtol=1e-5)
    loss = lambda a, e: rgrad.expect(lambda x: x[0] - x[2] ** 2, one_hot(a), KEY, 50, e)
    names = [name for name in ESTIMATORS if name not in BITS_ONLY]
    gradients = jax.jit(lambda: {name: jax.grad(loss)(a, ESTIMATORS[name]) for name in names})()
    for name in names:
        assert np.all(np.isfinite(gradients[name])), name


def test_estimators_see_through_jax_random():
    """Estimators that inspect `q` and make their own noise treat `jax_random(q)` like q."""
    q = lambda a: dist.Bernoulli(logits=a * jnp.ones(2)).to_event(1)

    def gradients(wrap):
        loss = lambda a, e: rgrad.expect(lambda x: (x.sum() + 1.0) ** 2, wrap(q(a)), KEY, 4, e)
        return [jax.grad(loss)(0.0, e) for e in (enumerated, arm, rebar)]

    wrapped, plain = jax.jit(lambda: (gradients(rgrad.jax_random), gradients(lambda q: q)))()
    np.testing.assert_allclose(wrapped, plain, rtol=1e-6)
    # For two bits E[(s + 1)^2] is 1 + 3 * 2 p + 2 p^2, with derivative 6 + 4 p = 8 in p.
    np.testing.assert_allclose(wrapped[0], 8 * 0.25, rtol=1e-6)
