"""The score function for samples from elsewhere. Exact, by enumeration, if possible."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from tests.calibration import assert_unbiased
from tests.enumeration import LOGITS, expectation, tuples

F = jnp.array([1.0, -2.0, 3.5])


def truth(logits):
    return jnp.sum(jax.nn.softmax(logits) * F)


def log_q(logits, x):
    return dist.Categorical(logits=logits).log_prob(x)


@pytest.mark.parametrize("baseline", [0.0, 2.0, rgrad.leave_one_out], ids=["0", "2", "leave_one_out"])
def test_importance_weights(baseline, x64):
    """Samples of p with weights q/p: the value, gradient and Hessian of E_q[f], exact to 1e-10."""
    logits, other = jnp.asarray(LOGITS), jnp.array([-0.2, 0.4, 0.6])

    def loss(p, samples):
        weights = jnp.exp(log_q(p, samples) - log_q(other, samples))  # its derivative must not contribute
        return rgrad.surrogate(F[samples], log_q(p, samples), baseline, weights=weights).mean()

    for derivative in (lambda g: g, jax.grad, jax.hessian):
        found = expectation(lambda s: derivative(loss)(logits, s), 3, other)
        np.testing.assert_allclose(found, jax.jit(derivative(truth))(logits), atol=1e-10)


@pytest.mark.parametrize(
    "baseline", [pytest.param(0.0, marks=pytest.mark.long), rgrad.leave_one_out], ids=["0", "leave_one_out"]
)
def test_masked_samples_do_not_count_whatever_they_hold(baseline):
    mask = jnp.array([True, False, True, True, False])
    values, x = jnp.array([1.0, jnp.nan, -2.0, 3.5, jnp.inf]), jnp.array([0, 1, 1, 2, 0])

    def padded(p):
        lp = jnp.where(mask, log_q(p, x), jnp.nan)
        return rgrad.surrogate(values, lp, baseline, mask=mask).mean()

    def plain(p):
        return rgrad.surrogate(values[mask], log_q(p, x[mask]), baseline).mean()

    for derivative in (lambda g: g, jax.grad, jax.hessian):
        np.testing.assert_allclose(
            derivative(padded)(jnp.asarray(LOGITS)), derivative(plain)(jnp.asarray(LOGITS)), rtol=1e-5, atol=1e-6
        )
    nothing = rgrad.surrogate(values, jnp.zeros(5), 0.0, mask=jnp.zeros(5, bool))
    np.testing.assert_array_equal(nothing, 0.0)


@pytest.mark.parametrize("wrap", [lambda g: g, jax.jit], ids=["plain", "jit"])
def test_groups_are_centred_each_on_its_own(wrap):
    groups = jnp.array([7, -3, 7, 7, -3])
    values, x = jnp.array([1.0, 10.0, -2.0, 3.5, 30.0]), jnp.array([0, 1, 1, 2, 0])
    together = lambda p, g: rgrad.surrogate(values, log_q(p, x), groups=g).sum()
    apart = lambda p: sum(
        rgrad.surrogate(values[groups == g], log_q(p, x[groups == g]), rgrad.leave_one_out).sum() for g in (7, -3)
    )
    np.testing.assert_allclose(
        wrap(jax.grad(together))(jnp.asarray(LOGITS), groups),
        jax.grad(apart)(jnp.asarray(LOGITS)),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("groups", [None, jnp.array([0, 0, 1, 1])], ids=["one group", "two groups"])
def test_unnormalised_log_density_is_right_if_centring_cancels_the_normaliser(groups, x64):
    """log q plus a different normaliser for each group: exact to 1e-10. Without centring it is off by over 0.1."""
    logits = jnp.asarray(LOGITS)

    def gradient(samples, **options):
        def loss(p):
            offset = jnp.sum(p**2) * (1.0 if groups is None else groups + 1.0)
            return rgrad.surrogate(F[samples], log_q(p, samples) + offset, groups=groups, **options).mean()

        return jax.grad(loss)(logits)

    centred = expectation(lambda s: gradient(s, baseline=rgrad.leave_one_out, normalized=False), 4)
    np.testing.assert_allclose(centred, jax.jit(jax.grad(truth))(logits), atol=1e-10)
    if groups is None:
        assert (
            np.abs(expectation(lambda s: gradient(s, baseline=0.0), 4) - jax.jit(jax.grad(truth))(logits)).max() > 0.1
        )


def test_unnormalised_raises_at_second_order_and_for_anything_but_centring():
    log_p = lambda t, x: -t * x**2
    loss = lambda t, x: rgrad.surrogate(x, log_p(t, x), rgrad.leave_one_out, normalized=False).mean()
    with pytest.raises(NotImplementedError, match="first order only"):
        jax.hessian(loss)(1.0, jnp.arange(3.0))
    for options in ({}, {"baseline": 1.0}, {"baseline": rgrad.leave_one_out, "weights": jnp.ones(3)}):
        with pytest.raises(ValueError, match="unnormalised log_prob is right only"):
            rgrad.surrogate(jnp.ones(3), jnp.ones(3), normalized=False, **options)


def test_mcmc_samples_of_an_unnormalised_density():
    """x ~ N(0, 1/(2t)) through log p = -t x^2: d/dt E[x^2] = -1/(2 t^2) = -0.5 at t = 1. Catches 0.02."""

    def draw(key):
        x = jax.random.normal(key, (20,)) * 2**-0.5
        return jax.grad(lambda t: rgrad.surrogate(x**2, -t * x**2, rgrad.leave_one_out, normalized=False).mean())(1.0)

    assert_unbiased(draw, -0.5, smallest_bias=0.02, replicates=40_000)


def test_nan_densities_are_never_a_gradient_of_zero():
    loss = lambda t: rgrad.surrogate(jnp.ones(3), jnp.array([1.0, jnp.nan, 2.0]) * t).mean()
    assert np.isnan(loss(1.0))
    assert np.isnan(jax.grad(loss)(1.0))
    root = lambda t: rgrad.surrogate(jnp.ones(2), jnp.array([jnp.log(t), jnp.log(-t)])).mean()
    assert np.isnan(jax.grad(root)(1.0))


def test_bad_input():
    one = jnp.ones(3)
    with pytest.raises(ValueError, match=r"values has shape \(\)"):
        rgrad.surrogate(1.0, 1.0)
    for name in ("log_prob", "weights", "mask", "groups"):
        with pytest.raises(ValueError, match=rf"surrogate: {name} has shape \(2,\); it must be \(3,\)"):
            rgrad.surrogate(**{"values": one, "log_prob": one, name: jnp.ones(2, int)})
    with pytest.raises(ValueError, match="another baseline ignores them"):
        rgrad.surrogate(one, one, 0.0, groups=jnp.array([0, 0, 1]))
    with pytest.raises(ValueError, match="sample 2 is alone in group 9"):
        rgrad.surrogate(one, one, groups=jnp.array([0, 0, 9]))
    with pytest.raises(ValueError, match="sample 2 is alone in group 9"):
        jax.jit(lambda v: rgrad.surrogate(v, v, groups=np.array([0, 0, 9])))(one)
    assert np.isnan(jax.jit(lambda g: rgrad.surrogate(one, one, groups=g))(jnp.array([0, 0, 9]))[2])


def test_values_are_kept_and_integers_become_floats():
    values = jnp.array([3, 1, 2])
    for baseline in (0.0, 5.0, rgrad.leave_one_out):
        terms = rgrad.surrogate(values, jnp.zeros(3), baseline)
        assert terms.dtype == jnp.float32
        np.testing.assert_array_equal(terms, values)
    assert tuples(2).shape == (9, 2)


def test_one_huge_weight_leaves_the_baselines_of_the_others_right():
    """If one sample has nearly all the weight, the others still have their own mean. Against NumPy in 64 bits."""
    rng, n = np.random.default_rng(0), 40
    values, groups, mask = rng.normal(size=n), rng.integers(0, 3, n), rng.random(n) < 0.9
    weights = np.exp(rng.normal(size=n))
    weights[:3] = 1e12, 1e15, 3e8
    for group, kept in ((None, np.ones(n, bool)), (groups, mask)):
        same = np.ones((n, n), bool) if group is None else groups[:, None] == groups
        others = same & ~np.eye(n, dtype=bool) * kept
        want = (others * weights) @ values / (others @ weights)
        terms = lambda lp, w: rgrad.surrogate(
            jnp.asarray(values), lp, rgrad.leave_one_out, weights=w, mask=kept, groups=group
        )
        # d terms_i / d lp_i is weight_i (value_i - baseline_i), times n / (the number that is kept).
        jacobian = jax.jit(jax.jacobian(terms))(jnp.zeros(n), jnp.asarray(weights, jnp.float32))
        found = values - np.asarray(jacobian).diagonal() / weights * kept.mean()
        np.testing.assert_allclose(found[kept], want[kept], rtol=1e-5, atol=1e-5)


MADE_OF_VALUES = {
    "the mean": lambda v, x: v.mean(),
    "for each sample": lambda v, x: jnp.full(4, v.mean()),
    "of what the values are made of": lambda v, x: (x**2).mean(),
    "by hand": lambda v, x: (v.sum() - v) / 3,
}
NOT_MADE_OF_THEM = {
    "a critic": lambda v, x: jnp.arange(4.0),
    "a number": lambda v, x: 4.0,
    "an array": lambda v, x: jnp.asarray(4.0),
    "vouched for": lambda v, x: rgrad.independent((v.sum() - v) / 3),
}


def with_baseline(baseline, key, t=2.0):
    def loss(t):
        x = jax.lax.stop_gradient(t + jax.random.normal(key, (4,)))
        return rgrad.surrogate(x**2, -((x - t) ** 2) / 2, baseline=baseline(x**2, x)).mean()

    return jax.grad(loss)(t)


def test_a_baseline_array_computed_from_the_values_is_refused():
    """A trace detects it, also under vmap and scan. Without a trace, only the plain mean is detected."""
    key = jax.random.key(0)
    for name, baseline in MADE_OF_VALUES.items():
        with pytest.raises(ValueError, match=r"computed from the values .*rgrad.independent"):
            jax.jit(lambda key, b=baseline: with_baseline(b, key))(key)
        with pytest.raises(ValueError, match="computed from the values"):
            rgrad.measure(lambda key, b=baseline: with_baseline(b, key), key, 10)
        if name != "by hand":
            with pytest.raises(ValueError, match="is the mean of the values"):
                with_baseline(baseline, key)
    values = jax.random.normal(key, (5,))
    for mean in (np.mean(values), np.full(5, np.mean(values)), np.asarray(values, float).mean()):
        with pytest.raises(ValueError, match="is the mean of the values"):
            rgrad.surrogate(values, jnp.zeros(5), baseline=mean)
    for baseline in NOT_MADE_OF_THEM.values():
        eager = with_baseline(baseline, key)
        np.testing.assert_allclose(jax.jit(lambda key, b=baseline: with_baseline(b, key))(key), eager, rtol=1e-5)


COPIES = {
    "repeat": lambda r: jnp.repeat(r, 3),
    "broadcast": lambda r: jnp.broadcast_to(r[:, None], (4, 3)).reshape(-1),
    "ones": lambda r: (r[:, None] * jnp.ones((4, 3))).reshape(-1) * 2 + 1,
    "index": lambda r: r[np.repeat(np.arange(4), 3)],
}


def test_values_that_are_repeated_for_tokens():
    """In one group they are refused: leave_one_out would contain an answer's own value. Grouped by position they work."""
    answers, log_p = jnp.array([1.0, 0.3, 2.7, 0.6]), jnp.arange(12.0)
    positions = np.tile(np.arange(3), 4)
    for repeated in COPIES.values():
        of = lambda r, groups, repeated=repeated: rgrad.surrogate(repeated(r), log_p, groups=groups)
        with pytest.raises(ValueError, match="copies of one number"):
            jax.jit(lambda r, of=of: of(r, jnp.zeros(12, int)))(answers)
        with pytest.raises(ValueError, match="copies of one number"):
            rgrad.measure(
                lambda key, of=of: of(answers * jax.random.normal(key), np.zeros(12, int)), jax.random.key(0), 10
            )
        traced = jax.jit(lambda r, groups, of=of: of(r, groups))
        assert np.isnan(traced(answers, jnp.zeros(12, int))).all()
        assert np.isfinite(traced(answers, jnp.asarray(positions))).all()
        assert np.isfinite(jax.jit(lambda r, of=of: of(r, positions))(answers)).all()
    # Numbers that happen to be equal are not copies.
    rgrad.surrogate(jnp.array([0.0, 1.0, 1.0, 0.0]), jnp.ones(4), groups=jnp.zeros(4, int))
    with pytest.raises(ValueError, match="copies of one number"):
        rgrad.surrogate(jnp.repeat(jnp.array([0.11, 0.3, 2.7, 0.6]), 3), log_p, groups=np.zeros(12, int))
