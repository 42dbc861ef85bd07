"""`group_advantages`, against enumeration of all groups, closed forms and the literature's formulas in NumPy."""

from fractions import Fraction
from itertools import product
from math import gamma

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import rgrad

K = 4
OPTIONS = [("leave_one_out", None, 1), ("mean", None, 1), (None, None, 1), ("leave_one_out", "std", 0), ("mean", "std", 0),
           ("mean", "std", 1), (None, "std", 1)]  # fmt: skip


def formula(rewards, baseline, scale, ddof, eps=0.0):
    """One group, written out."""
    r = np.asarray(rewards, np.float64)
    others = np.array([np.delete(r, i).mean() for i in range(r.size)])
    off = r - {"leave_one_out": others, "mean": r.mean(), None: 0.0}[baseline]
    return off / (r.std(ddof=ddof) + eps) if scale else off


def all_groups(p, k=K):
    """Every group of k rewards of 0 and 1, its probability, and the score of each sample for the success rate p."""
    groups = np.array(list(product((0.0, 1.0), repeat=k)))
    return groups, np.where(groups == 1, p, 1 - p).prod(1), np.where(groups == 1, 1 / p, -1 / (1 - p))


def advantages_of(groups, *options, **more):
    """Of many groups of one size, shape `(groups, k)`, in one call."""
    ids = np.repeat(np.arange(len(groups)), groups.shape[1])
    return np.asarray(rgrad.group_advantages(groups.ravel(), ids, *options, **more)).reshape(groups.shape)


TABLE = [  # rewards; then RLOO, Dr. GRPO and GRPO (ddof 0) as fractions, or as multiples of a square root
    ((1, 0, 0, 1), "2/3 -2/3 -2/3 2/3", "1/2 -1/2 -1/2 1/2", "1 -1 -1 1", 1),
    ((1, 0, 0, 0), "1 -1/3 -1/3 -1/3", "3/4 -1/4 -1/4 -1/4", "1 -1/3 -1/3 -1/3", 3),
    ((1, 1, 1, 0), "1/3 1/3 1/3 -1", "1/4 1/4 1/4 -3/4", "1/3 1/3 1/3 -1", 3),
    ((0, 0, 0, 0), "0 0 0 0", "0 0 0 0", "0 0 0 0", 1),
    ((1, 1, 1, 1), "0 0 0 0", "0 0 0 0", "0 0 0 0", 1),
    ((0.1, 0.1, 0.1, 0.1), "0 0 0 0", "0 0 0 0", "0 0 0 0", 1),  # whose mean in floating point is not 0.1
    ((1, 2, 3, 4), "-2 -2/3 2/3 2", "-3/2 -1/2 1/2 3/2", "-3/5 -1/5 1/5 3/5", 5),
    ((-1, -1, 1, 1), "-4/3 -4/3 4/3 4/3", "-1 -1 1 1", "-1 -1 1 1", 1),
    ((5, 1, 1, 1), "4 -4/3 -4/3 -4/3", "3 -1 -1 -1", "1 -1/3 -1/3 -1/3", 3),
    ((0, 0, 2, 2), "-4/3 -4/3 4/3 4/3", "-1 -1 1 1", "-1 -1 1 1", 1),
]


def test_a_table_of_ten_groups(x64):
    """In one call, shuffled. Groups without spread get exactly 0, with eps = 0 and with rounding errors."""
    rewards = np.array([row[0] for row in TABLE], float)
    order = np.random.default_rng(0).permutation(rewards.size)
    ids = 7 - np.repeat(np.arange(len(TABLE)), K)[order]
    for options, column in ((("leave_one_out",), 1), (("mean",), 2), (("mean", "std", 0), 3)):
        found = np.empty(rewards.size)
        found[order] = rgrad.group_advantages(rewards.ravel()[order], ids, *options)
        right = np.array([[float(Fraction(x)) for x in row[column].split()] for row in TABLE])
        if column == 3:
            right *= np.sqrt([[row[4]] for row in TABLE])
        np.testing.assert_allclose(found.reshape(-1, K), right, atol=1e-14)
        assert np.all(found.reshape(-1, K)[[3, 4, 5]] == 0)
    np.testing.assert_allclose(advantages_of(rewards, "mean", "std", 1), right * np.sqrt(3 / 4), atol=1e-14)


def test_equal_rewards_give_exactly_0():
    """Whatever rounding does to their mean: 200 groups of 49 in 32 bits, with eps = 0."""
    rewards = np.repeat(np.random.default_rng(0).normal(size=200).astype(np.float32) * 1e3, 49)
    for options in (("leave_one_out",), ("mean", "std", 0)):
        assert np.all(np.asarray(rgrad.group_advantages(rewards, np.repeat(np.arange(200), 49), *options)) == 0)


def test_every_combination_of_options_is_its_formula():
    """In 32 bits under jit and vmap, with strict promotion. Equal to NumPy in 64 bits up to rounding."""
    rewards = np.random.default_rng(1).normal(3.0, 2.0, (5, 3, 4)).astype(np.float32)  # 5 calls of 3 groups
    ids = np.repeat([2, 0, 9], 4).astype(np.int32)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        call = lambda r, g: [rgrad.group_advantages(r, g, b, s, d, 0.01) for b, s, d in OPTIONS]
        found = jax.jit(jax.vmap(call, (0, None)))(jnp.asarray(rewards.reshape(5, 12)), jnp.asarray(ids))
    for options, part in zip(OPTIONS, found, strict=True):
        assert part.dtype == jnp.float32
        right = [[formula(group, *options, eps=0.01) for group in call] for call in rewards]
        np.testing.assert_allclose(part.reshape(5, 3, 4), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_bias_for_binary_rewards(p, x64):
    """All 16 groups. RLOO: 1. Dr. GRPO: 1 - 1/k. GRPO: E[s] / (p (1 - p)), with eps E[s^2 / (s + eps)] / (p (1 - p))."""
    groups, weight, score = all_groups(p)
    factor = lambda *options, **more: weight @ (advantages_of(groups, *options, **more) * score).mean(1)
    assert factor("leave_one_out") == pytest.approx(1, abs=1e-12)
    assert factor("mean") == pytest.approx(1 - 1 / K, abs=1e-12)
    counts = np.arange(K + 1)
    mass = stats.binom(K, p).pmf(counts)
    s = np.sqrt(counts / K * (1 - counts / K))
    for ddof, eps in ((0, 0.0), (1, 0.0), (0, 1e-4), (1, 1e-4), (1, 0.1)):
        used = s * np.sqrt(K / (K - ddof)) + eps
        right = mass @ np.divide(s**2, used, where=used > 0, out=np.zeros(K + 1)) / (p * (1 - p))
        assert factor("mean", "std", ddof, eps) == pytest.approx(right, abs=1e-12)
    stated = {0.01: (1.7275, 1.4960), 0.1: (1.6903, 1.4638), 0.5: (1.6160, 1.3995), 0.9: (1.6903, 1.4638)}[p]
    assert (factor("mean", "std", 0), factor("mean", "std", 1)) == pytest.approx(stated, abs=5e-5)
    assert factor("leave_one_out", "std", 0) == pytest.approx(4 / 3 * stated[0], abs=1e-4)


def test_the_bias_for_continuous_rewards(x64):
    """r ~ N(mu, sigma): with radius rho = |r - mean|, the estimate is rho^2 / k / (s + eps) / sigma^2 in every direction.

    The radius has a chi distribution. Closed form without eps: E[s] = sigma sqrt(2/k) Gamma(k/2) / Gamma((k-1)/2).
    """
    sigma, mean = 2.0, 5.0
    radius = np.linspace(0, 12, 4001)[1:] * sigma
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, len(radius), K))
    directions -= directions.mean(-1, keepdims=True)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)

    def factor(*options):
        off = radius[:, None] * directions
        each = [(advantages_of(mean + x, *options) * x).mean(1) / sigma**2 for x in off]
        np.testing.assert_allclose(*each, rtol=1e-9)  # the direction does not matter
        return integrate.simpson(stats.chi(K - 1, scale=sigma).pdf(radius) * each[0], x=radius)

    spread = np.sqrt(2 / K) * gamma(K / 2) / gamma((K - 1) / 2)
    assert factor("leave_one_out") == pytest.approx(1, abs=1e-6)
    assert factor("mean") == pytest.approx(1 - 1 / K, abs=1e-6)
    assert factor("mean", "std", 0) == pytest.approx(spread / sigma, abs=1e-6)
    assert factor("mean", "std", 1) == pytest.approx(spread / sigma * np.sqrt(1 - 1 / K), abs=1e-6)
    assert factor("mean", "std", 1) * sigma == pytest.approx(0.691, abs=5e-4)  # as the docstring says


def test_rloo_is_surrogate_with_groups_and_k_over_k_minus_1_times_dr_grpo(x64):
    """The same gradient as `surrogate(groups=)`, sample by sample, which is computed in another way."""
    rng = np.random.default_rng(2)
    ids, rewards, actions = np.repeat([3, 1], K), jnp.asarray(rng.normal(size=2 * K)), rng.integers(0, 3, 2 * K)

    def log_probs(theta):
        return jax.nn.log_softmax(theta)[actions]

    theta = jnp.array([0.3, -0.2, 0.9])
    by_groups = lambda t: rgrad.surrogate(rewards, log_probs(t), groups=ids)
    by_hand = lambda t, b: rgrad.surrogate(rgrad.group_advantages(rewards, ids, b), log_probs(t))
    of = lambda f, *more: jax.jacfwd(lambda t: f(t, *more))(theta)
    rloo, groups, dr = jax.jit(lambda: (of(by_hand, "leave_one_out"), of(by_groups), of(by_hand, "mean")))()
    np.testing.assert_allclose(rloo, groups, atol=1e-12)
    np.testing.assert_allclose(rloo, K / (K - 1) * dr, atol=1e-14)


def test_no_derivative_flows_through():
    loss = lambda r: sum((rgrad.group_advantages(r, [0, 0, 1, 1], *options) ** 2).sum() for options in OPTIONS)
    assert np.all(jax.jit(jax.grad(loss))(jnp.array([1.0, 2.0, 3.0, 3.0])) == 0)


@pytest.mark.parametrize("traced", [False, True])
def test_padding_changes_nothing(traced):
    """Within 4 units in the last place, and padding gets exactly 0, nan and infinite rewards included."""
    rng = np.random.default_rng(3)
    rewards, ids = rng.normal(size=8).astype(np.float32), np.repeat([0, 1], K)
    places = np.sort(rng.permutation(13)[:8])
    padded, labels, mask = np.full(13, np.nan, np.float32), np.full(13, 5), np.zeros(13, bool)
    padded[places], labels[places], mask[places] = rewards, ids, True
    padded[np.flatnonzero(~mask)[0]] = np.inf
    labels[np.flatnonzero(~mask)[1]] = 1  # padding of a group that also has samples
    some = [("leave_one_out",), ("mean", "std", 0), (None, "std")]
    call = lambda r, g, m: [rgrad.group_advantages(r, g, *options, mask=m) for options in some]
    every = (jax.jit(call) if traced else call)(padded, labels, mask)
    plain = jax.jit(lambda: [rgrad.group_advantages(rewards, ids, *options) for options in some])()
    for found, right in zip(every, plain, strict=True):
        np.testing.assert_array_max_ulp(found[places], right, 4)
        assert np.all(np.asarray(found)[~mask] == 0)


BAD = [
    (
        {"rewards": [1.0, 2.0, 3.0], "groups": [0, 0, 4]},
        "sample 2 is alone in group 4, so there is no other to compare it",
    ),
    ({"rewards": [1.0, 2.0, 3.0, 4.0, 5.0], "groups": [0, 0, 0, 1, 1]}, r"group 1 has 2 samples and group 0 has 3"),
    ({"mask": [False] * 4}, "mask is False everywhere, so nothing is left"),
    ({"mask": [True, False, True, True]}, "sample 0 is alone in group 0"),
    ({"rewards": [1.0, np.nan, 3.0, 4.0]}, r"rewards\[1\] is nan; fix what computes it, or leave it out with mask="),
    ({"rewards": [[1.0, 2.0]], "groups": [[0, 0]]}, r"rewards has shape \(1, 2\); it must be \(n,\)"),
    ({"groups": [0, 0, 1]}, r"groups has shape \(3,\); it must be \(4,\), like rewards"),
    ({"baseline": "loo"}, "baseline = 'loo' is unknown; it must be one of 'leave_one_out', 'mean', None"),
    ({"scale": "var"}, "scale = 'var' is unknown"),
    ({"ddof": 2}, "ddof = 2; it must be 0"),
    ({"eps": -1.0}, "eps = -1.0; it is added to a standard deviation"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:25] for _, message in BAD])
def test_bad_input(arguments, message):
    good = {"rewards": [1.0, 2.0, 3.0, 4.0], "groups": [0, 0, 1, 1]}
    with pytest.raises(ValueError, match=f"^group_advantages: {message}"):
        rgrad.group_advantages(**(good | arguments))


def test_traced_bad_input_is_nan():
    """A group of one, a nan in a group, and nothing kept. Other groups are not affected."""
    call = jax.jit(lambda r, g, m: rgrad.group_advantages(r, g, "mean", "std", mask=m))
    rewards, ids, all_of_them = jnp.array([1.0, 2.0, 3.0, 4.0, 6.0]), jnp.array([0, 0, 1, 1, 2]), jnp.ones(5, bool)
    np.testing.assert_array_equal(np.isnan(call(rewards, ids, all_of_them)), [False] * 4 + [True])
    found = call(rewards.at[1].set(jnp.nan), ids, all_of_them.at[4].set(False))
    np.testing.assert_array_equal(np.isnan(found), [True, True, False, False, False])
    assert np.all(np.isnan(call(rewards, ids, ~all_of_them)))
