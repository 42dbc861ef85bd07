"""`rgrad.log_prob`: NumPyro's density, with a derivative that is right even at the special points of its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import rgrad
from rgrad.distributions.keyed import WithKey
from rgrad.distributions.kinks import beside_kinks


class Own:
    """A user's distribution that is not a pytree. Its density calls NumPyro's."""

    has_rsample = False

    def __init__(self, build, t):
        self.build, self.t = build, t

    def sample(self, key, shape):
        return self.build(self.t).sample(key, shape)

    def log_prob(self, x):
        return self.build(self.t).log_prob(x)


bit = lambda t: dist.Bernoulli(logits=t)
count = lambda t: dist.Binomial(4, logits=t)
laplace = lambda t: dist.Laplace(t, 1.0)
evenly = lambda: dist.Categorical(logits=jnp.zeros(2))
mixed = lambda parts: dist.MixtureSameFamily(evenly(), parts)
SPECIAL = {
    # name: a function from t to the distribution, the special t, and values
    "Bernoulli": (bit, 0.0, (0, 1)),
    "Binomial": (count, 0.0, (0, 1, 4)),
    "Geometric": (lambda t: dist.Geometric(logits=t), 0.0, (0, 3)),
    "Categorical": (lambda t: dist.Categorical(logits=jnp.array([0.0, 1.0, 1.0]) * t), 0.0, (0, 2)),
    "zero-inflated bit": (lambda t: dist.ZeroInflatedDistribution(bit(t), gate=0.5), 0.0, (0, 1)),
    "zero-inflated count": (lambda t: dist.ZeroInflatedDistribution(count(t), gate_logits=t), 0.0, (0, 3)),
    "masked": (lambda t: bit(t).mask(jnp.array(True)), 0.0, (0, 1)),
    "mixture": (lambda t: mixed(bit(jnp.stack([t, 1.0 + t]))), 0.0, (0, 1)),
    "general mixture": (lambda t: dist.MixtureGeneral(evenly(), [count(t), count(2.0 * t)]), 0.0, (0, 3)),
    "jax_random": (lambda t: rgrad.jax_random(bit(t)), 0.0, (0, 1)),
    "jax_random of draws": (lambda t: rgrad.jax_random(rgrad.antithetic(dist.ZeroInflatedDistribution(count(t), gate=0.3))), 0.0, (0, 1)),
    "a masked vector": (lambda t: rgrad.jax_random(bit(t).expand([2]).mask(np.ones(2, bool)).to_event(1)), 0.0, (np.array([0, 1]),)),
    "one's own": (lambda t: Own(bit, t), 0.0, (0, 1)),
    "one's own, of a difference": (lambda t: Own(lambda t: count(t - 0.7), t), 0.7, (0, 3)),
    "a mask of one's own": (lambda t: dist.MaskedDistribution(Own_of_numpyro(t), True), 0.0, (0, 1)),
    "truncated below": (lambda t: dist.TruncatedDistribution(laplace(t), low=0.0), 0.0, (0.3, 2.0)),
    "truncated above": (lambda t: dist.TruncatedDistribution(laplace(t), high=1.3), 1.3, (0.3, -2.0)),
    "truncated on both sides": (lambda t: dist.TruncatedDistribution(laplace(t), low=0.0, high=1.0), 1.0, (0.3, 0.9)),
    "truncated normal": (lambda t: dist.TruncatedNormal(t, 1.0, low=0.0), 0.0, (0.0, 0.5)),
}  # fmt: skip


class Own_of_numpyro(dist.Distribution):
    support = dist.constraints.boolean

    def __init__(self, t):
        self.t = t
        super().__init__(batch_shape=jnp.shape(t), validate_args=False)

    def log_prob(self, x):
        return dist.Bernoulli(logits=self.t).log_prob(x)


for name in ("HurdleDistribution", "RightCensoredDistribution", "IntervalCensoredDistribution"):  # since NumPyro 0.22
    if hasattr(dist, name):
        SPECIAL |= {
            "HurdleDistribution": {"hurdle": (lambda t: dist.HurdleDistribution(count(t), gate=0.5), 0.0, (0, 1, 3))},
            "RightCensoredDistribution": {
                "censored": (lambda t: dist.RightCensoredDistribution(laplace(t), censored=jnp.array(1)), 0.5, (0.5,)),
                "censored, asymmetric": (lambda t: dist.RightCensoredDistribution(dist.AsymmetricLaplace(t, 1.0, 1.4), censored=jnp.array(1)), 0.5, (0.5,)),
            },
            "IntervalCensoredDistribution": {
                "between": (lambda t: dist.IntervalCensoredDistribution(laplace(t), left_censored=jnp.array(0), right_censored=jnp.array(0)), 0.0, (np.array([0.0, 1.0]),)),
            },
        }[name]  # fmt: skip


def test_scores_at_special_points(x64):
    """Against differences of NumPyro's values, to 1e-5. The differences are off by 1e-6, because some second derivatives
    jump. The wrong derivatives were off by 0.07 or more."""
    h = 1e-6

    def errors(build, t, x):
        plain = jax.vmap(lambda t: build(t).log_prob(x))(t + h * jnp.arange(-1.0, 2.0))
        value, score = jax.value_and_grad(lambda t: rgrad.log_prob(build(t), x))(t)
        return value - plain[1], score - (plain[2] - plain[0]) / (2 * h)

    def all_errors():
        each = {name: (build, jnp.asarray(t), np.stack(xs)) for name, (build, t, xs) in SPECIAL.items()}
        return {name: jax.vmap(lambda x, b=b, t=t: errors(b, t, x))(xs) for name, (b, t, xs) in each.items()}

    for name, (of_value, of_score) in jax.jit(all_errors)().items():
        assert np.all(np.abs(of_value) < 1e-14), name
        assert np.all(np.abs(of_score) < 1e-5), (name, of_score)


POSITIVE_PART = {
    "max": lambda x: jnp.maximum(x, 0),
    "min": lambda x: -jnp.minimum(0.0, -x),
    "relu": jax.nn.relu,
    "where": lambda x: jnp.where(x > 0, x, 0.0),
    "clamp": lambda x: jax.lax.clamp(0.0, x, 100.0),
    "sign": lambda x: x * (1 + jnp.sign(x)) / 2,
}


def softplus(x, kind="max"):
    return POSITIVE_PART[kind](x) + jnp.log1p(jnp.exp(-jnp.abs(-x)))


def test_every_way_to_write_a_softplus():
    """At x = 0, computed as a difference, the derivatives are 1/2 and 1/4, with jit and (the first) without."""

    def orders(t):
        def of(kind):
            f = lambda t: beside_kinks(lambda c: softplus(t - c, kind), 0.7)
            return jnp.stack([f(t), jax.grad(f)(t), jax.grad(jax.grad(f))(t)])

        return {kind: of(kind) for kind in POSITIVE_PART}

    for kind, found in jax.jit(orders)(0.7).items():
        np.testing.assert_allclose(found, (np.log(2), 0.5, 0.25), atol=1e-6, err_msg=kind)
    assert jax.grad(lambda t: beside_kinks(lambda c: softplus(t - c), 0.7))(0.7) == 0.5


def test_what_protects_a_branch_stays():
    """A `where` with branches of different values is unchanged. So are loops and custom derivatives."""
    safe = lambda t: jnp.where(t > 0, jnp.log(jnp.where(t > 0, t, 1.0)), -3.0) + jnp.abs(t - 1)
    assert jax.jit(jax.grad(lambda t: beside_kinks(lambda c: c * safe(t), 1.0)))(0.0) == -1

    @jax.custom_vjp
    def own(t):
        return jnp.abs(t)

    own.defvjp(lambda t: (jnp.abs(t), t), lambda t, g: (7.0 * g,))

    def density(t, x):
        looped = jax.lax.fori_loop(0, 2, lambda i, a: a + x * t, 0.0)
        return own(t) + jax.lax.cond(x > 0, jnp.sin, jnp.cos, t) + looped + softplus(t)

    assert jax.jacfwd(lambda t: beside_kinks(lambda x: softplus(t) * x, 1.0))(0.0) == 0.5
    assert jax.jit(jax.grad(lambda t: beside_kinks(lambda x: density(t, x), 1.0)))(0.0) == 7 + 1 + 2 + 0.5


def test_a_density_that_looks_at_its_numbers_is_called():
    """A density that cannot be traced is only called. A density with constant parameters is only evaluated."""
    looks = lambda x: -(x**2) if np.asarray(x).size else x
    assert beside_kinks(looks, jnp.ones(())) == -1
    assert rgrad.log_prob(bit(0.3), 1) == bit(0.3).log_prob(1)


def test_shapes_are_those_of_numpyro():
    """Values with leading axes, parameters of mixed shapes, and the pairs of `keyed=True`."""
    q = dist.Binomial(jnp.array([2, 3]), logits=0.0).to_event(1)
    x = jnp.broadcast_to(jnp.array([1, 2]), (5, 4, 2))
    wide, key = bit(0.0).expand([3, 2]).to_event(1), jax.random.key(0)

    @jax.jit
    def densities():
        mine = rgrad.log_prob(q, x), rgrad.log_prob(wide, jnp.ones((3, 2))), rgrad.log_prob(WithKey(q), (x[0, 0], key))
        return mine, (q.log_prob(x), wide.log_prob(jnp.ones((3, 2))), q.log_prob(x[0, 0]))

    for mine, numpyros in zip(*densities(), strict=True):
        np.testing.assert_allclose(mine, numpyros, rtol=1e-6)
        assert mine.shape == numpyros.shape


def test_a_branch_of_minus_infinity_is_never_taken_for_the_other():
    """`where(x == loc, 0, -inf)` of a `Delta` at a traced loc was -inf: the two branches were "equal up to rounding"."""
    of = lambda t: rgrad.log_prob(dist.Delta(t, log_density=-t), t)
    t = jnp.array([0.1, 1.3, 2.0])
    for found in (jax.vmap(of)(t), jax.jit(jax.vmap(of))(t), jnp.stack([jax.jit(of)(x) for x in t])):
        np.testing.assert_allclose(found, -t)
    np.testing.assert_allclose(jax.vmap(jax.grad(of))(t), -1.0)
    at_the_edge = lambda t: rgrad.log_prob(dist.Uniform(0.0, t), t)  # its support is closed
    np.testing.assert_allclose(jax.vmap(at_the_edge)(t), -jnp.log(t), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(at_the_edge))(t), -1 / t, rtol=1e-6)
