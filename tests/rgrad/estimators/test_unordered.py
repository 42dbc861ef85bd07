"""The unordered-set estimator: exact sums over all sets in 64 bits, its noise, its weights in 32 bits, and refusals."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from rgrad.estimators.unordered import _left_out, unordered
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)


def probability_of(group, p):
    """That the first draws without replacement are this set: a sum over all orders."""
    total = 0.0
    for order in itertools.permutations(group):
        left, product = 1.0, 1.0
        for s in order:
            product, left = product * p[s] / left, left - p[s]
        total += product
    return total


@pytest.fixture
def sets(monkeypatch):
    """`sets(p, k) -> weights`: the next call draws every set of k values. Also returns their probabilities."""

    def use(p, k):
        groups = np.array([np.random.default_rng(i).permutation(g) for i, g in enumerate(itertools.combinations(range(len(p)), k))])  # fmt: skip
        monkeypatch.setattr(jax.lax, "top_k", lambda z, k: (None, jnp.asarray(groups)))
        return np.array([probability_of(g, p) for g in groups])

    return use


def logits_of(count):
    return np.random.default_rng(count).normal(size=count)


def softmax(a):
    return np.exp(a) / np.exp(a).sum()


f_of = lambda theta: lambda i: jnp.sin(3.0 * i + theta[0]) * (1 + theta[1]) + i**2 / 9.0


@pytest.mark.parametrize(
    ("count", "k"),
    [(3, 2), (6, 3), *(pytest.param(*case, marks=pytest.mark.long) for case in ((6, 2), (20, 2), (20, 3)))],
)
def test_exactly_over_all_sets(count, k, sets, x64):
    """Value, gradient and (for K = 3) Hessian, also in parameters that f uses, to 1e-10. Gradients are up to 3."""
    theta = jnp.asarray(logits_of(count))
    weights = sets(softmax(np.asarray(theta)), k)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)

    def estimate(theta):
        return weights @ unordered(f_of(theta), dist.Categorical(logits=theta), KEY, len(weights), k=k)

    exact = lambda theta: jax.nn.softmax(theta) @ jax.vmap(f_of(theta))(jnp.arange(count))
    derivatives = lambda g: [g(theta), jax.grad(g)(theta), *([jax.hessian(g)(theta)] if count == 3 else [])]
    got, want = jax.jit(lambda: (derivatives(estimate), derivatives(exact)))()
    for mine, true in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, true, atol=1e-10)


KINDS = {
    "probs": lambda a: dist.Categorical(probs=jax.nn.softmax(a)),
    "one-hot": rgrad.OneHotCategorical,
    "bits": lambda a: dist.Bernoulli(logits=a[:2]).to_event(1),
    "Binomial": lambda a: dist.Binomial(3, logits=a[0]),
}


@pytest.mark.parametrize(
    "kind", ["one-hot", *(pytest.param(k, marks=pytest.mark.long) for k in KINDS if k != "one-hot")]
)
def test_every_finite_distribution(kind, sets, x64):
    """Four values in each, two in a set: the gradient to 1e-10."""
    a, q = jnp.asarray(logits_of(4)), KINDS[kind]
    f = lambda x: jnp.sum(jnp.sin(x + 1.0) * jnp.arange(1.0, 1 + x.size).reshape(x.shape)) ** 2
    values = jnp.asarray({"one-hot": np.eye(4), "bits": list(np.ndindex(2, 2))}.get(kind, np.arange(4)))
    p = np.asarray(jnp.exp(jax.vmap(q(a).log_prob)(values)))
    weights = sets(p, 2)
    estimate = lambda a: weights @ unordered(f, q(a), KEY, len(weights), k=2)
    exact = lambda a: rgrad.expect(f, q(a), KEY, 1, rgrad.enumerated)
    got, want = jax.jit(lambda: (jax.grad(estimate)(a), jax.grad(exact)(a)))()
    np.testing.assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("count", [3, pytest.param(6, marks=pytest.mark.long), 20])
def test_the_whole_support_is_the_exact_sum(count):
    """k = K, and k > K: every group gives the same gradient, and it is right to rounding."""
    a = jnp.asarray(logits_of(count), jnp.float32)
    estimator = partial(unordered, k=count + (count == 3))
    terms = lambda a: estimator(f_of(a), dist.Categorical(logits=a), KEY, 5)
    each, exact = jax.jit(
        lambda a: (
            jax.jacfwd(terms)(a),
            jax.grad(lambda a: jax.nn.softmax(a) @ jax.vmap(f_of(a))(jnp.arange(count)))(a),
        )
    )(a)
    assert np.all(np.ptp(each, 0) == 0)
    np.testing.assert_allclose(each[0], exact, atol=1e-5)


def test_what_is_drawn():
    """Gumbel top-k with its own noise, also of f. Catches 0.02 in gradients of 0.03 to 0.5."""
    a, values = jnp.asarray(logits_of(6)), jnp.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.5])
    noisy = lambda i, key: values[i] + jax.random.normal(key)
    q = lambda a: dist.Categorical(logits=a)
    draw = lambda key: {
        k: jax.grad(lambda a, k=k: rgrad.expect(noisy, q(a), key, 30 // k, partial(unordered, k=k), keyed=True))(a)
        for k in (2, 3)
    }
    p = softmax(np.asarray(a, float))
    truth = p * (np.asarray(values) - p @ np.asarray(values))
    assert_unbiased(draw, {2: truth, 3: truth}, smallest_bias=0.02)


def test_less_noise_than_the_score_function(sets, x64):
    """The exact variance of one group of k = 3, against leave-one-out from three samples, for four values, one of which
    has the probability 0.8: less than a third of it."""
    p = np.array([0.8, 0.1, 0.07, 0.03])
    a, values = jnp.log(p), jnp.array([1.0, -2.0, 0.5, 3.0])
    weights = sets(p, 3)
    triples = np.array(list(np.ndindex(4, 4, 4)))

    class Given(dist.CategoricalLogits):
        def sample(self, key, shape):
            return self.given

    def leave_one_out(triple):
        def loss(a):
            q = Given(a)
            q.given = triple
            return rgrad.expect(lambda i: values[i], q, KEY, 3, "score_function+leave_one_out")

        return jax.grad(loss)(a)

    def each():
        mine = jax.jacfwd(lambda a: unordered(lambda i: values[i], dist.Categorical(logits=a), KEY, len(weights), k=3))(
            a
        )
        return mine, jax.vmap(leave_one_out)(jnp.asarray(triples))

    mine, theirs = jax.jit(each)()
    variance = lambda g, w: (w @ g**2 - (w @ g) ** 2).sum()
    np.testing.assert_allclose(weights @ mine, p[triples].prod(1) @ theirs, atol=1e-12)  # both are unbiased
    assert 0 < variance(mine, weights) < variance(theirs, p[triples].prod(1)) / 3


def test_the_weights_in_32_bits():
    """Probabilities from 1 down to 1e-30, and sets of all sizes: to 1e-5 of those of 64 bits, by sums over all orders."""
    cases = [
        (np.array([0.5, 0.3, 0.1, 0.05, 0.05]), 3),
        (np.array([1.0, 1e-6, 1e-9, 1e-12, 1e-30]), 3),
        (np.array([1e-10, 1.0, 1e-8, 1e-5, 1e-3]), 4),
    ]
    for p, k in cases:
        q = p[:k].astype(np.float32)[None]
        every, one, two = _left_out(jnp.asarray(q), jnp.asarray([p[k:].sum()], jnp.float32))
        conditional = lambda gone, p=p, k=k: probability_after(gone, p, k)
        np.testing.assert_allclose(every[0], conditional(()), rtol=1e-5)
        np.testing.assert_allclose(one[0], [conditional((s,)) for s in range(k)], rtol=1e-5)
        pairs = [[conditional((s, t) if s != t else (s,)) for t in range(k)] for s in range(k)]
        np.testing.assert_allclose(two[0], pairs, rtol=1e-5)


def probability_after(gone, p, k):
    """That the next draws after `gone` are the others of the first k values. Masses are sums, so nothing cancels."""
    total = 0.0
    for order in itertools.permutations(set(range(k)) - set(gone)):
        left, product = [i for i in range(len(p)) if i not in gone], 1.0
        for s in order:
            product *= p[s] / p[left].sum()
            left.remove(s)
        total += product
    return total


def test_values_that_cannot_happen():
    """A class is ruled out, and f is infinite there. With as many other classes as k, the sum is exact."""
    values = jnp.array([1.0, 3.0, jnp.inf])
    f = lambda i: values[i]

    def losses(a):
        q = dist.Categorical(logits=jnp.append(a, -jnp.inf), validate_args=False)
        return jnp.stack([rgrad.expect(f, q, jax.random.key(i), 1, partial(unordered, k=2)) for i in range(3)])

    value, slope = jax.jit(lambda a: (losses(a), jax.jacfwd(losses)(a)))(jnp.zeros(2))
    np.testing.assert_allclose(value, 2.0, rtol=1e-6)
    np.testing.assert_allclose(slope, [[-0.5, 0.5]] * 3, atol=1e-6)
    # A probability of exactly 0 that is differentiated: its samples are never drawn.
    of_probs = lambda p: rgrad.expect(lambda i: i * 1.0, dist.Categorical(probs=p), KEY, 2, partial(unordered, k=2))
    slope = jax.jit(jax.grad(of_probs))(jnp.array([0.3, 0.3, 0.4, 0.0]))
    np.testing.assert_array_equal(np.isnan(slope), [False, False, False, True])


def test_it_refuses():
    q = dist.Categorical(logits=jnp.zeros(20))
    expect = lambda q, k=2: rgrad.expect(lambda x: jnp.sum(x * 1.0), q, KEY, 4, partial(unordered, k=k))
    for k, error, match in (
        (1, ValueError, r"unordered: k = 1, but its baseline needs at least 2 different values; .* or score_function"),
        (11, ValueError, r"unordered: k = 11, but at most 10 values .* 2\^k subsets; use k <= 10 .* or all 20"),
        (2.0, TypeError, "k must be a Python int"),
        (True, TypeError, "k must be a Python int"),
    ):
        with pytest.raises(error, match=match):
            expect(q, k)
    for q, error, match in (
        (dist.Poisson(2.0), NotImplementedError, r"unordered needs a finite support .* has none; use score_function"),
        (dist.Normal(0.0, 1.0), NotImplementedError, r"unordered needs a finite support .*; use reparameterized"),
        (rgrad.antithetic(dist.Bernoulli(0.3)), NotImplementedError, r"antithetic\(Bernoulli\).*; pass q itself"),
        (dist.Bernoulli(logits=jnp.zeros(20)).to_event(1), ValueError, r"unordered: .* 2\^20 = .* use score_function"),
        (dist.Categorical(logits=jnp.zeros((2, 3))), ValueError, r"batch_shape \(2,\)"),
    ):
        with pytest.raises(error, match=match):
            expect(q)
    row = rgrad.ESTIMATORS["unordered"]
    assert row.evaluations(dist.Categorical(logits=jnp.zeros(20)), 10) == 40
    assert row.evaluations(dist.Bernoulli(0.3), 10) == 2
