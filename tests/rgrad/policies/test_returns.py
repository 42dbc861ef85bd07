"""`discounted_returns`, `generalized_advantages`, and `credit` with padding, against sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rgrad

REWARDS = np.random.default_rng(0).normal(size=7).astype(np.float32)
VALUES = np.random.default_rng(1).normal(size=7).astype(np.float32)


def returns_written_out(r, discounts, bootstrap):
    r, discounts = np.asarray(r, np.float64), np.broadcast_to(np.asarray(discounts, np.float64), (len(r),))
    ahead = lambda t: np.concatenate([[1.0], np.cumprod(discounts[t:])])
    return [ahead(t) @ np.append(r[t:], bootstrap) for t in range(len(r))]


def gae_written_out(r, v, discount, decay, bootstrap):
    """The weighted mean of the k-step advantages (equation 16 of the paper), at the end with all the remaining weight."""
    r, v = np.asarray(r, np.float64), np.append(np.asarray(v, np.float64), bootstrap)
    found = []
    for t in range(len(r)):
        steps = np.arange(1, len(r) - t + 1)
        of_k = [discount ** np.arange(k) @ r[t : t + k] + discount**k * v[t + k] - v[t] for k in steps]
        weights = (1 - decay) * decay ** (steps - 1.0)
        weights[-1] = decay ** (steps[-1] - 1.0)
        found.append(weights @ of_k)
    return found


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
def test_returns_and_advantages_are_their_sums(discount):
    """Under jit and vmap, with strict promotion. `decay=1` is the return minus the value, `decay=0` is one step."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        of_batch = jax.jit(jax.vmap(lambda r: rgrad.discounted_returns(r, discount, 0.7)))
        found = of_batch(jnp.stack([jnp.asarray(REWARDS)] * 2))[1]
        gae = jax.jit(
            jax.vmap(lambda decay: rgrad.generalized_advantages(jnp.asarray(REWARDS), jnp.asarray(VALUES), discount, decay, 0.7))
        )(jnp.array([0.0, 0.6, 1.0]))  # fmt: skip
    np.testing.assert_allclose(found, returns_written_out(REWARDS, discount, 0.7), rtol=1e-5, atol=1e-6)
    for decay, part in zip((1e-300, 0.6, 1.0), gae, strict=True):
        np.testing.assert_allclose(part, gae_written_out(REWARDS, VALUES, discount, decay, 0.7), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gae[2], np.asarray(found) - VALUES, rtol=1e-5, atol=1e-6)


def test_several_episodes_in_a_row():
    """A discount of 0 at the last step of an episode."""
    discounts = np.array([0.9, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9], np.float32)
    found = rgrad.discounted_returns(REWARDS, discounts)
    np.testing.assert_allclose(found[:3], rgrad.discounted_returns(REWARDS[:3], 0.9), rtol=1e-6)
    np.testing.assert_allclose(found, returns_written_out(REWARDS, discounts, 0.0), rtol=1e-5)
    gae = rgrad.generalized_advantages(REWARDS, VALUES, discounts, 0.6)
    np.testing.assert_allclose(gae[:3], rgrad.generalized_advantages(REWARDS[:3], VALUES[:3], 0.9, 0.6), rtol=1e-6)


def test_derivatives():
    """Those of the rewards are kept in returns. Advantages are constants."""
    slope = jax.grad(lambda r: rgrad.discounted_returns(r, 0.5)[1])(jnp.ones(4))
    np.testing.assert_allclose(slope, [0, 1, 0.5, 0.25])
    for i in range(2):
        loss = lambda r, v: (rgrad.generalized_advantages(r, v, 0.9, 0.5, v[0]) ** 2).sum()
        assert np.all(jax.grad(loss, i)(REWARDS, VALUES) == 0)


PADDINGS = [np.arange(7), np.arange(4, 11), np.array([0, 2, 3, 6, 7, 9, 10])]  # on the right, on the left, between


def padded(x, places, size=11, fill=np.nan):
    wide = np.full(size, fill, np.float32)
    wide[places] = x
    return wide


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("places", PADDINGS, ids=("right", "left", "between"))
def test_padding_changes_nothing(places, traced):
    """Within 4 units in the last place of the sequence without padding, and masked steps are exactly 0. Padding is nan."""
    compiled = jax.jit if traced else lambda f: f
    mask = ~np.isnan(padded(REWARDS, places))
    discounts = np.linspace(0.5, 1.0, 7, dtype=np.float32)
    returns = compiled(lambda r, d, m: rgrad.discounted_returns(r, d, 0.3, m))
    gae = compiled(lambda r, v, d, m: rgrad.generalized_advantages(r, v, d, 0.8, 0.3, m))
    found = returns(padded(REWARDS, places), padded(discounts, places), mask)
    advantages = gae(padded(REWARDS, places), padded(VALUES, places), padded(discounts, places), mask)
    np.testing.assert_array_max_ulp(found[places], rgrad.discounted_returns(REWARDS, discounts, 0.3), 4)
    np.testing.assert_array_max_ulp(
        advantages[places], rgrad.generalized_advantages(REWARDS, VALUES, discounts, 0.8, 0.3), 4
    )
    assert np.all(np.asarray(found)[~mask] == 0)
    assert np.all(np.asarray(advantages)[~mask] == 0)


@pytest.mark.parametrize("places", PADDINGS, ids=("right", "left", "between"))
def test_credit_with_padding(places):
    """The value and the gradient in each log probability are those without padding, within 4 units in the last place.

    Masked steps have a derivative of exactly 0. Costs, log probabilities and baselines of padding are nan.
    """
    log_probs = -np.abs(VALUES)
    mask = ~np.isnan(padded(REWARDS, places))
    for b in (0.0, REWARDS + 1):
        plain = jax.jit(jax.value_and_grad(lambda p, b=b: rgrad.credit(REWARDS, p, baselines=b)))(log_probs)
        wide = b if isinstance(b, float) else padded(b, places)
        loss = lambda p, m, c, wide=wide: rgrad.credit(c, p, baselines=wide, mask=m)
        arguments = jnp.asarray(padded(log_probs, places)), jnp.asarray(mask), jnp.asarray(padded(REWARDS, places))
        value, gradient = jax.jit(jax.value_and_grad(loss))(*arguments)
        # They are sums of terms with both signs: in units in the last place of their largest term.
        ulp = np.spacing(np.abs(REWARDS).max())
        assert abs(value - plain[0]) <= 4 * ulp
        assert np.all(np.abs(gradient[places] - plain[1]) <= 4 * ulp)
        assert np.all(np.asarray(gradient)[~mask] == 0)


def test_an_episode_that_fills_up_a_batch_adds_nothing():
    nothing, mask = jnp.full(3, jnp.nan), jnp.zeros((1, 3), bool)
    of_batch = jax.vmap(jax.value_and_grad(lambda p, m: rgrad.credit(nothing, p, mask=m)), (None, 0))
    value, gradient = of_batch(nothing, mask)
    assert value[0] == 0
    assert np.all(gradient == 0)
    assert np.all(jax.vmap(lambda m: rgrad.discounted_returns(nothing, mask=m))(mask) == 0)
    assert np.all(jax.vmap(lambda m: rgrad.generalized_advantages(nothing, nothing, mask=m))(mask) == 0)


def test_bad_input():
    one, off = jnp.ones(3), np.zeros(3, bool)
    for name, call in {
        "discounted_returns": rgrad.discounted_returns,
        "generalized_advantages": lambda r, **more: rgrad.generalized_advantages(r, jnp.zeros_like(r), **more),
    }.items():
        with pytest.raises(
            ValueError, match=rf"{name}: rewards has shape \(2, 3\); it must be \(T,\), from one episode"
        ):
            call(jnp.ones((2, 3)))
        with pytest.raises(
            ValueError, match=rf"{name}: rewards\[1\] is nan; fix what computes it, or leave it out with"
        ):
            call(one.at[1].set(jnp.nan))
        with pytest.raises(ValueError, match=f"{name}: mask is False everywhere, so nothing is left"):
            call(one, mask=off)
        with pytest.raises(ValueError, match=rf"{name}: mask has shape \(2,\); it must be \(3,\), like rewards"):
            call(one, mask=off[:2])
        with pytest.raises(ValueError, match=rf"{name}: discount has shape \(2,\); it must be one number or \(3,\)"):
            call(one, discount=jnp.ones(2))
    with pytest.raises(ValueError, match=r"generalized_advantages: values\[0\] is nan"):
        rgrad.generalized_advantages(one, one.at[0].set(jnp.nan))
    with pytest.raises(
        ValueError, match=r"generalized_advantages: values has shape \(4,\); it must be \(3,\), like rewards"
    ):
        rgrad.generalized_advantages(one, jnp.ones(4))
    with pytest.raises(ValueError, match="credit: mask is False everywhere, so nothing is left; it must be True"):
        rgrad.credit(one, one, mask=off)
    with pytest.raises(ValueError, match=r"credit: mask has shape \(2,\); it must be \(3,\), like log_probs"):
        rgrad.credit(one, one, mask=off[:2])
    with pytest.raises(ValueError, match="credit: mask is for sequences, and influences are given"):
        rgrad.credit(one, one, np.ones((3, 3)), mask=~off)
    assert np.all(np.isnan(jax.jit(rgrad.discounted_returns)(one.at[2].set(jnp.nan))))
