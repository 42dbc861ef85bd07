"""`kl_penalty`: what its value and its gradient estimate, by sums over all outcomes in 64 bits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rgrad

THETA, REF = np.array([0.5, -0.3, 1.1]), np.log([0.2, 0.5, 0.3])
KINDS = ("k1", "k2", "k3")
kl = lambda a, b: (jnp.exp(a) * (a - b)).sum()
log_p = jax.nn.log_softmax


def as_a_loss(kind):
    """The mean gradient at fixed samples: the sum over outcomes with constant probabilities."""
    loss = lambda t: (jax.lax.stop_gradient(jnp.exp(log_p(t))) * rgrad.kl_penalty(log_p(t), REF, kind)).sum()
    return jax.grad(loss)


def in_the_reward(kind):
    """The mean gradient of `penalty * log p`, with a constant penalty."""

    def loss(t):
        constant = jax.lax.stop_gradient(rgrad.kl_penalty(log_p(t), REF, kind))
        return (jax.lax.stop_gradient(jnp.exp(log_p(t))) * rgrad.attach(constant, log_p(t))).sum()

    return jax.grad(loss)


def test_values_and_gradients(x64):
    average = lambda kind: float((jnp.exp(log_p(THETA)) * rgrad.kl_penalty(log_p(THETA), REF, kind)).sum())
    assert average("k1") == pytest.approx(float(kl(log_p(THETA), REF)), abs=1e-12)
    assert average("k3") == pytest.approx(float(kl(log_p(THETA), REF)), abs=1e-12)
    half_square = lambda t: (jnp.exp(log_p(t)) * (log_p(t) - REF) ** 2).sum() / 2
    assert average("k2") == pytest.approx(float(half_square(THETA)), abs=1e-12)
    assert abs(average("k2") - average("k1")) > 0.02
    right = [jax.grad(lambda t: kl(log_p(t), REF)), jax.grad(lambda t: kl(REF, log_p(t))), jax.grad(half_square)]
    found = [of(kind) for kind in KINDS for of in (as_a_loss, in_the_reward)]
    (forward, backward, other), means = jax.jit(lambda t: ([f(t) for f in right], [f(t) for f in found]))(THETA)
    truths = (0 * forward, forward, forward, other - forward, backward, forward - backward)
    for mean, truth in zip(means, truths, strict=True):
        np.testing.assert_allclose(mean, truth, atol=1e-12)


def test_the_numbers_of_the_docstring(x64):
    ref = np.log([0.7, 0.3])

    def loss(t, kind):
        p = log_p(jnp.array([0.0, t]))
        return (jax.lax.stop_gradient(jnp.exp(p)) * rgrad.kl_penalty(p, ref, kind)).sum()

    found = jax.jit(lambda t: [jax.grad(loss)(t, kind) for kind in KINDS])(0.8)
    found = [float(x) for x in found]
    assert found == pytest.approx([0, 0.35237, 0.38997], abs=5e-6)


@pytest.mark.parametrize("wide", [False, True])
def test_k3_is_right_near_0(wide):
    """Value and derivative relative to 50 digits' worth of series, where `expm1(d) - d` loses all of them."""
    with jax.enable_x64(wide):
        d = np.array([0.0, 1e-30, 1e-8, -1e-4, 1e-3, 0.2999, -0.2999, 0.3001, -0.3001, -2.0, 3.0])
        d = d.astype(jnp.float64 if wide else jnp.float32)
        # The terms of the series alternate for positive d, but they cancel little up to d = 3.
        exact = np.array([math.fsum((-float(x)) ** n / math.factorial(n) for n in range(2, 60)) for x in d])
        value = rgrad.kl_penalty(d, np.zeros_like(d), "k3", discrete=False)
        slope = jax.vmap(jax.grad(lambda x: rgrad.kl_penalty(x, jnp.zeros_like(x), "k3", discrete=False)))(d)
        eps = np.finfo(d.dtype).eps
        np.testing.assert_allclose(value, exact, rtol=20 * eps, atol=1e-300 if wide else 1e-38)
        np.testing.assert_allclose(slope, -np.expm1(-d.astype(np.float64)), rtol=20 * eps)
        assert np.all(value >= 0)


def test_modes_and_padding():
    """Under jit, vmap and strict promotion, and what is masked is exactly 0, with a gradient of 0: nan included."""
    p, mask = jnp.array([[-1.0, -2.0, jnp.nan], [-0.5, jnp.inf, -3.0]]), np.array([[1, 1, 0], [1, 0, 1]], bool)
    ref = jnp.full((2, 3), -1.5)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        call = lambda p, ref, m: [rgrad.kl_penalty(p, ref, kind, m) for kind in KINDS]
        every = jax.jit(jax.vmap(call))(p, ref, jnp.asarray(mask))
    slopes = jax.jit(jax.jacrev(lambda p: [x.sum() for x in call(p, ref, mask)]))(p)
    plain = jax.jit(lambda p, ref: [rgrad.kl_penalty(p, ref, kind) for kind in KINDS])(p[mask], ref[mask])
    for found, slope, right in zip(every, slopes, plain, strict=True):
        np.testing.assert_array_max_ulp(found[mask], right, 4)
        assert np.all(np.asarray(found)[~mask] == 0)
        assert np.all(np.asarray(slope)[~mask] == 0)
        assert np.all(np.isfinite(np.asarray(slope)))


def test_bad_input():
    good = jnp.array([-1.0, -2.0])
    for arguments, message in (
        ((good, good, "k4"), "kind = 'k4' is unknown; it must be one of 'k1', 'k2', 'k3'"),
        ((good, good[:1]), r"log_ref has shape \(1,\); it must be \(2,\), like log_p"),
        ((good.at[1].set(0.5), good), r"log_p\[1\] = 0.5 is positive, so it is not the log probability of a discrete"),
        ((good, good.at[0].set(2.0)), r"log_ref\[0\] = 2 is positive"),
        ((good.at[1].set(jnp.nan), good), r"log_p\[1\] is nan; fix what computes it"),
        ((good, good, "k1", np.zeros(2, bool)), "mask is False everywhere"),
    ):
        with pytest.raises(ValueError, match=f"^kl_penalty: {message}"):
            rgrad.kl_penalty(*arguments)
    positive = good.at[1].set(0.5)
    np.testing.assert_array_equal(np.isnan(jax.jit(rgrad.kl_penalty)(positive, good)), [False, True])
    assert float(rgrad.kl_penalty(positive, good, discrete=False)[1]) == 2.5
    rgrad.kl_penalty(good.at[0].set(1e-6), good)  # the rounding error of a probability of 1
