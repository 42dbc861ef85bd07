"""`SVILoss` against enumeration, quadrature and closed forms, on models with plates, scales and masks."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from numpyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal

import rgrad
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
X = jnp.array([1.2, -0.3, 2.0])
LOO, SCORE = "score_function+leave_one_out", "score_function"


class Case(NamedTuple):
    """A model and a guide, the parameters, the exact loss, and the estimators to try for its sites."""

    model: Any
    guide: Any
    params: Any
    exact: Any
    """`params -> negative ELBO`, by sums and quadrature."""
    ways: Any
    args: Any = ()


def bit(logits, b):
    """log Bernoulli(b; logits)."""
    return b * logits - jax.nn.softplus(logits)


def normal(x, loc, scale):
    return -((x - loc) ** 2) / (2 * scale**2) - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)


def conjugate():
    """Closed form: mu ~ N(0, 1), x ~ N(mu, 1)."""

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", 3):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=X)

    def guide():
        m, s = numpyro.param("m", 0.3), numpyro.param("s", 0.7, constraint=constraints.positive)
        numpyro.sample("mu", dist.Normal(m, s))

    def exact(p):
        m, v = p["m"], p["s"] ** 2
        return 0.5 * (m**2 + v) + 0.5 * jnp.sum((X - m) ** 2 + v) + 1.5 * jnp.log(2 * jnp.pi) - jnp.log(p["s"]) - 0.5

    ways = [{}, {"mu": SCORE}, {"mu": LOO}, {"mu": "measure_valued"}, {"mu": "generalized"}]
    return Case(model, guide, {"m": 0.3, "s": 0.7}, exact, ways)


def bit_then_normal():
    def model():
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        mu = numpyro.sample("mu", dist.Normal(2.0 * z, 1.0))
        with numpyro.plate("data", 3):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=X)

    def guide():
        m, s = numpyro.param("m", jnp.array([0.1, 0.9])), numpyro.param("s", 0.8, constraint=constraints.positive)
        z = numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logits", 0.4)))
        numpyro.sample("mu", dist.Normal(m[z], s))

    def exact(p):
        total = 0.0
        for z in (0, 1):
            mu = p["m"][z] + p["s"] * NODES
            log_p = bit(np.log(3 / 7), z) + normal(mu, 2.0 * z, 1.0) + normal(X, mu[:, None], 1.0).sum(1)
            log_q = bit(p["logits"], z) + normal(mu, p["m"][z], p["s"])
            total += jnp.exp(bit(p["logits"], z)) * jnp.dot(WEIGHTS, log_q - log_p)
        return total

    ways = [
        {}, {"z": "enumerated"}, {"z": "disarm"}, {"z": SCORE, "mu": LOO}, {"z": "measure_valued", "mu": "measure_valued"},
        {"z": "enumerated", "mu": LOO}, {"z": "arm", "mu": "generalized"},
    ]  # fmt: skip
    params = {"logits": 0.4, "m": jnp.array([0.1, 0.9]), "s": 0.8}
    return Case(model, guide, params, exact, ways)


def mixture(n=4):
    """Local categories in a plate, and a global location."""
    x, weights = jnp.linspace(-2, 2, n), jnp.array([0.5, 0.3, 0.2])

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", n):
            c = numpyro.sample("c", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(mu + jnp.array([-1.0, 0.0, 1.5])[c], 0.8), obs=x)

    def guide():
        numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.2), 0.5))
        logits = numpyro.param("logits", jnp.linspace(-1, 1, 3 * n).reshape(n, 3))
        with numpyro.plate("data", n):
            numpyro.sample("c", dist.Categorical(logits=logits))

    def exact(p):
        mu = p["m"] + 0.5 * NODES
        log_q = jax.nn.log_softmax(p["logits"])  # (n, 3)
        each = jnp.log(weights) + normal(
            x[:, None, None], mu[:, None] + jnp.array([-1.0, 0.0, 1.5]), 0.8
        )  # (n, nodes, 3)
        local = jnp.einsum("nc,nkc,k->", jnp.exp(log_q), log_q[:, None] - each, WEIGHTS)
        return local + jnp.dot(WEIGHTS, normal(mu, p["m"], 0.5) - normal(mu, 0.0, 1.0))

    ways = [{}, {"c": "enumerated"}, {"c": SCORE}, {"c": LOO, "mu": LOO}, {"c": "enumerated", "mu": LOO}]
    return Case(model, guide, {"m": 0.2, "logits": jnp.linspace(-1, 1, 3 * n).reshape(n, 3)}, exact, ways)


def subsampled():
    """Two of four data at a time. Costs are scaled by 2, scores are not."""
    x = jnp.array([-1.0, 0.5, 1.0, 2.0])

    def model():
        with numpyro.plate("data", 4, subsample_size=2) as i:
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(2.0 * z - 0.5, 1.0), obs=x[i])

    def guide():
        logits = numpyro.param("logits", jnp.array([0.3, -0.2, 0.5, 0.0]))
        with numpyro.plate("data", 4, subsample_size=2) as i:
            numpyro.sample("z", dist.Bernoulli(logits=logits[i]))

    def exact(p):
        of = lambda z: bit(p["logits"], z) - bit(np.log(0.4 / 0.6), z) - normal(x, 2.0 * z - 0.5, 1.0)
        return sum(jnp.sum(jnp.exp(bit(p["logits"], z)) * of(z)) for z in (0, 1))

    ways = [{}, {"z": "enumerated"}, {"z": SCORE}, {"z": "disarm"}, {"z": "measure_valued"}]
    return Case(model, guide, {"logits": jnp.array([0.3, -0.2, 0.5, 0.0])}, exact, ways)


def scaled_and_masked():
    """Everything is scaled by 3. One of three local bits is masked in model and guide, but still changes a cost."""
    mask = jnp.array([True, False, True])

    def both(sample_z):
        with handlers.scale(scale=3.0), numpyro.plate("data", 3), handlers.mask(mask=mask):
            return sample_z()

    def model():
        z = both(lambda: numpyro.sample("z", dist.Bernoulli(0.4)))
        numpyro.factor("all", 0.7 * z.sum() * z[1])

    def guide():
        logits = numpyro.param("logits", jnp.array([0.3, -0.2, 0.5]))
        both(lambda: numpyro.sample("z", dist.Bernoulli(logits=logits)))

    def exact(p):
        total = 0.0
        for z in np.ndindex(2, 2, 2):
            b = jnp.array(z)
            q = jnp.exp(bit(p["logits"], b).sum())
            own = jnp.where(mask, bit(p["logits"], b) - bit(np.log(0.4 / 0.6), b), 0.0).sum()
            total += q * (3.0 * own - 0.7 * b.sum() * b[1])
        return total

    ways = [{}, {"z": SCORE}, {"z": "enumerated"}, {"z": "disarm"}, {"z": "measure_valued"}]
    return Case(model, guide, {"logits": jnp.array([0.3, -0.2, 0.5])}, exact, ways)


def chain():
    """A Markov chain of three bits, with a factor at the end and one in the middle."""

    def model():
        a = numpyro.sample("a", dist.Bernoulli(0.6))
        b = numpyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
        numpyro.factor("middle", -1.5 * a * b)
        c = numpyro.sample("c", dist.Bernoulli(0.7 - 0.4 * b))
        numpyro.factor("end", 2.0 * c - b)

    def guide():
        t = numpyro.param("t", jnp.array([0.2, -0.4, 0.6]))
        a = numpyro.sample("a", dist.Bernoulli(logits=t[0]))
        b = numpyro.sample("b", dist.Bernoulli(logits=t[1] + a))
        numpyro.sample("c", dist.Bernoulli(logits=t[2] * b))

    def exact(p):
        t, total = p["t"], 0.0
        logit = lambda q: jnp.log(q) - jnp.log(1 - q)
        for a, b, c in np.ndindex(2, 2, 2):
            log_q = bit(t[0], a) + bit(t[1] + a, b) + bit(t[2] * b, c)
            log_p = bit(logit(0.6), a) + bit(logit(0.2 + 0.6 * a), b) + bit(logit(0.7 - 0.4 * b), c)
            total += jnp.exp(log_q) * (log_q - log_p + 1.5 * a * b - 2.0 * c + b)
        return total

    every = lambda e: dict.fromkeys("abc", e)
    ways = [
        {},
        every("enumerated"),
        every(SCORE),
        {"a": "enumerated"},
        {"b": "enumerated"},
        {"a": "disarm", "c": "enumerated"},
    ]
    return Case(model, guide, {"t": jnp.array([0.2, -0.4, 0.6])}, exact, ways)


def gamma_beta_dirichlet():
    """Guides with implicit gradients: KL divergences of the families, and an expected factor, in closed form."""

    def model():
        g = numpyro.sample("g", dist.Gamma(2.0, 1.0))
        b = numpyro.sample("b", dist.Beta(2.0, 3.0))
        d = numpyro.sample("d", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
        numpyro.factor("linear", -0.5 * g + b + d[0])

    def guide():
        positive = partial(numpyro.param, constraint=constraints.positive)
        numpyro.sample("g", dist.Gamma(positive("ga", 1.5), positive("gb", 1.2)))
        numpyro.sample("b", dist.Beta(positive("b0", 1.3), 2.0))
        numpyro.sample("d", dist.Dirichlet(positive("da", jnp.array([1.5, 1.0, 2.0]))))

    def exact(p):
        g, b, d = dist.Gamma(p["ga"], p["gb"]), dist.Beta(p["b0"], 2.0), dist.Dirichlet(p["da"])
        kl = numpyro.distributions.kl.kl_divergence
        own = (
            kl(g, dist.Gamma(2.0, 1.0)) + kl(b, dist.Beta(2.0, 3.0)) + kl(d, dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
        )
        return own + 0.5 * g.mean - b.mean - d.mean[0]

    params = {"ga": 1.5, "gb": 1.2, "b0": 1.3, "da": jnp.array([1.5, 1.0, 2.0])}
    ways = [{}, {"g": LOO, "b": LOO, "d": LOO}, {"g": "rejection", "d": "generalized"}]
    return Case(model, guide, params, exact, ways)


def nested_plates():
    """Bits in a plate, and bits in two plates below them."""

    def model():
        with numpyro.plate("rows", 2, dim=-2):
            a = numpyro.sample("a", dist.Bernoulli(0.4))
            with numpyro.plate("columns", 3, dim=-1):
                b = numpyro.sample("b", dist.Bernoulli(0.3 + 0.4 * a))
                numpyro.sample("x", dist.Normal(b + a, 1.0), obs=jnp.arange(6.0).reshape(2, 3) / 3)

    def guide():
        s, t = numpyro.param("s", jnp.array([[0.1], [-0.3]])), numpyro.param("t", jnp.linspace(-1, 1, 6).reshape(2, 3))
        with numpyro.plate("rows", 2, dim=-2):
            a = numpyro.sample("a", dist.Bernoulli(logits=s))
            with numpyro.plate("columns", 3, dim=-1):
                numpyro.sample("b", dist.Bernoulli(logits=t - a))

    def exact(p):
        x, total = jnp.arange(6.0).reshape(2, 3) / 3, 0.0
        logit = lambda q: jnp.log(q) - jnp.log(1 - q)
        for a in (0, 1):
            inner = 0.0
            for b in (0, 1):
                log_q = bit(p["t"] - a, b)
                inner += jnp.exp(log_q) * (log_q - bit(logit(0.3 + 0.4 * a), b) - normal(x, b + a, 1.0))
            log_q = bit(p["s"], a)
            total += jnp.sum(jnp.exp(log_q) * (log_q - bit(logit(0.4), a) + inner.sum(1, keepdims=True)))
        return total

    params = {"s": jnp.array([[0.1], [-0.3]]), "t": jnp.linspace(-1, 1, 6).reshape(2, 3)}
    ways = [{}, {"a": "enumerated", "b": "enumerated"}, {"a": SCORE, "b": "enumerated"}, {"b": "disarm"}]
    return Case(model, guide, params, exact, ways)


def partly_observed():
    """A vector of which one entry is missing, by `obs_mask`."""
    x, seen = jnp.array([0.5, 0.0, 1.5]), jnp.array([True, False, True])

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", 3):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x, obs_mask=seen)

    def guide():
        numpyro.sample("mu", dist.Normal(numpyro.param("m", 0.3), 0.7))
        with numpyro.plate("data", 3):
            numpyro.sample("x_unobserved", dist.Normal(numpyro.param("u", 0.2), 0.9))

    def exact(p):
        mu, u = p["m"] + 0.7 * NODES[:, None], p["u"] + 0.9 * NODES
        seen_part = jnp.dot(WEIGHTS, (normal(x, mu, 1.0) * seen).sum(1))
        prior = jnp.dot(WEIGHTS, normal(mu[:, 0], 0.0, 1.0) - normal(mu[:, 0], p["m"], 0.7))
        own = jnp.einsum("i,j,ij->", WEIGHTS, WEIGHTS, normal(u, mu, 1.0) - normal(u, p["u"], 0.9))
        others = 2 * jnp.dot(
            WEIGHTS, -normal(u, p["u"], 0.9)
        )  # the other two are masked in the model, not in the guide
        return -(seen_part + prior + own + others)

    return Case(model, guide, {"m": 0.3, "u": 0.2}, exact, [{}, {"mu": LOO}, {"x_unobserved": LOO}])


CASES = {
    f.__name__: f()
    for f in (
        conjugate, bit_then_normal, mixture, subsampled, scaled_and_masked, chain, gamma_beta_dirichlet, nested_plates,
        partly_observed,
    )
}  # fmt: skip


def gradient_of(case, loss):
    def draw(key):
        return jax.value_and_grad(lambda p: loss.loss(key, p, case.model, case.guide, *case.args))(floats(case.params))

    return draw


def floats(params):
    return jax.tree.map(lambda x: jnp.asarray(x, float), params)


SMALLEST_BIAS = {
    "conjugate": 0.6, "bit_then_normal": 0.4, "mixture": 0.6, "subsampled": 0.1, "scaled_and_masked": 0.06, "chain": 0.04,
    "gamma_beta_dirichlet": 0.2, "nested_plates": 0.1, "partly_observed": 0.2,
}  # fmt: skip


def unbiased(name, ways, more=(), power=1.0):
    case = CASES[name]
    with jax.enable_x64(True):
        truth = jax.tree.map(np.asarray, jax.value_and_grad(case.exact)(floats(case.params)))
    draws = [gradient_of(case, loss) for loss in [*(rgrad.SVILoss(3, way) for way in ways), *more]]
    assert_unbiased(
        lambda key: [d(key) for d in draws],
        [truth] * len(draws),
        smallest_bias=power * SMALLEST_BIAS[name],
        replicates=40_000,
    )


LONG = {"conjugate", "gamma_beta_dirichlet", "partly_observed", "bit_then_normal"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in CASES])
def test_unbiased(name):
    """Value and gradient. False failures: one in a million for each model; a bias of `SMALLEST_BIAS` is caught."""
    entropies = [rgrad.SVILoss(3, entropy=e) for e in ("exact", "detached")] if name == "conjugate" else []
    unbiased(name, CASES[name].ways[:2], entropies)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_unbiased_for_all_choices(name):
    """All choices, and fewer particles, which are noisier: a bias of 1.7 times `SMALLEST_BIAS` is caught."""
    unbiased(name, CASES[name].ways[2:], [rgrad.SVILoss(2), rgrad.SVILoss(1)], power=1.7)


def variances(case, losses, replicates=20_000):
    of = lambda loss: rgrad.measure(lambda key: gradient_of(case, loss)(key)[1], KEY, replicates).variance
    return [of(loss) for loss in losses]


def test_less_noise_than_numpyro():
    """The variance for the logits of a bit that chooses a normal: the measured ratios are 7.6 and 180.

    The variances are known to about 2 %, so the limits of 5 and 80 are far away. False failures: under one in a million.
    """
    case = CASES["bit_then_normal"]
    losses = [TraceGraph_ELBO(8), rgrad.SVILoss(8), rgrad.SVILoss(8, {"z": "enumerated"})]
    numpyros, loo, enumerated = (v["logits"] for v in variances(case, losses))
    assert numpyros > 5 * loo
    assert numpyros > 80 * enumerated


def many_bits(n):
    def model():
        with numpyro.plate("data", n):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=jnp.linspace(-1, 3, n))

    def guide():
        with numpyro.plate("data", n):
            numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("logits", jnp.zeros(n))))

    return Case(model, guide, {"logits": jnp.zeros(n)}, None, None)


@pytest.mark.parametrize("estimator", ["score_function", "disarm", "measure_valued+independent"])
def test_local_bits_do_not_add_noise_to_each_other(estimator):
    """The largest variance of a logit's gradient is the same for 3 and for 100 bits in a plate; enumerated, it is 0."""
    logits = lambda n: {"logits": jnp.full(n, 0.7)}
    case = lambda n: many_bits(n)._replace(params=logits(n))
    few, many = (variances(case(n), [rgrad.SVILoss(4, {"z": estimator})], 4_000)[0]["logits"].max() for n in (3, 100))
    assert many < 1.3 * few  # each is known to 5 %
    if estimator == "score_function":
        assert variances(many_bits(100), [rgrad.SVILoss(1, {"z": "enumerated"})], 10)[0]["logits"].max() < 1e-12


def test_enumeration_in_a_plate_evaluates_the_model_once_for_each_value():
    """For 100 bits, the operations grow with 2, not 2^100. With a term that mixes the bits, the limit refuses it."""
    case, evaluated = many_bits(100), []

    def counted():
        z = case.model()
        evaluated.append(1)
        return z

    loss = rgrad.SVILoss(1, {"z": "enumerated"})
    jax.eval_shape(lambda key: loss.loss(key, case.params, counted, case.guide), KEY)
    assert len(evaluated) <= 4  # traced for the shapes, the dependence and the values

    def mixing():
        with numpyro.plate("data", 100):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.factor("all", z.sum() ** 2)

    with pytest.raises(ValueError, match=r"the support of Bernoulli has 2\^100 = .* points, more than limit"):
        loss.loss(KEY, case.params, mixing, case.guide)


EIGHT = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12]), jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def eight_schools():
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, EIGHT[1]), obs=EIGHT[0])


@pytest.mark.long
@pytest.mark.parametrize("automatic", [AutoMultivariateNormal, AutoNormal, AutoLowRankMultivariateNormal])
def test_automatic_guides(automatic):
    """The same numbers as NumPyro's `Trace_ELBO` from the same samples: every site is reparameterized.

    False failures: one in a million for each guide. A bias of 0.5 is caught, of gradients up to 10.
    """
    guide = automatic(eight_schools, init_scale=0.1)
    svi = SVI(eight_schools, guide, optax.adam(0.01), rgrad.SVILoss(4))
    state = svi.init(KEY)
    params = svi.get_params(state)

    def difference(key):
        gradients = [
            jax.value_and_grad(lambda p, loss=loss, key=key: loss.loss(key, p, eight_schools, guide))(params)
            for loss, key in zip((rgrad.SVILoss(4), Trace_ELBO(4)), jax.random.split(key), strict=True)
        ]
        return jax.tree.map(jnp.subtract, *gradients)

    truth = jax.tree.map(np.zeros_like, (0.0, params))
    assert_unbiased(difference, truth, smallest_bias=0.5, replicates=30_000)
    state, loss = jax.jit(svi.update)(state)
    assert np.isfinite(loss)


def test_svi_as_it_is():
    """`run`, `stable_update`, forward mode, a mapped loop over particles, mutable state, and a function of the site."""
    case = CASES["bit_then_normal"]
    by_function = rgrad.SVILoss(2, lambda name, q: "enumerated" if isinstance(q, dist.BernoulliLogits) else None)
    svi = SVI(case.model, case.guide, optax.adam(0.05), by_function)
    result = svi.run(KEY, 200, progress_bar=False)
    assert np.all(np.isfinite(result.losses))
    assert result.losses[-50:].mean() < result.losses[:50].mean()
    state = svi.init(KEY)
    (_, a), (_, b) = svi.update(state), svi.update(state, forward_mode_differentiation=True)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    looped = SVI(case.model, case.guide, optax.adam(0.05), rgrad.SVILoss(2, vectorize_particles=False))
    assert jax.eval_shape(looped.stable_update, looped.init(KEY))[1].shape == ()
    moments = rgrad.measure_svi(svi, state, KEY, 100)
    assert set(moments.mean) == {"logits", "m", "s"}
    assert moments.variance["logits"] > 0

    def counting():
        count = numpyro.primitives.mutable("count", {"value": 0})
        count["value"] = count["value"] + 1
        case.model()

    for particles in (3,):
        counted = SVI(counting, case.guide, optax.adam(0.05), rgrad.SVILoss(particles))
        state = counted.init(KEY)
        for _ in range(2):
            state, _ = counted.update(state)
        assert int(state.mutable_state["count"]["value"]) == 3


def test_the_score_of_a_logit_of_zero():
    """NumPyro's density of a Bernoulli has the wrong derivative at a logit of exactly 0. Its own losses are biased."""
    with jax.enable_x64(True):
        case = many_bits(1)
        got = variances_mean(case, rgrad.SVILoss(2, {"z": "enumerated"}))
        log_p = lambda z: np.log([0.6, 0.4][z]) - 0.5 * (-1.0 - 2.0 * z) ** 2
        assert abs(got - 0.25 * (log_p(0) - log_p(1))) < 1e-9


def variances_mean(case, loss):
    return float(jax.grad(lambda p: loss.loss(KEY, p, case.model, case.guide))(floats(case.params))["logits"][0])


def test_scores_that_would_be_wrong_are_refused():
    """The score omits the moving edge of a Uniform (it would give -0.5 instead of +0.5), and a probability of exactly 0."""
    model = lambda: numpyro.sample("u", dist.Uniform(0.0, 5.0))
    guide = lambda: numpyro.sample("u", dist.Uniform(0.0, numpyro.param("t", 1.0)))
    loss = lambda t, way: rgrad.SVILoss(2, {"u": way}).loss(KEY, {"t": t}, model, guide)
    with pytest.raises(NotImplementedError, match="site 'u': score_function: the support of Uniform depends"):
        jax.grad(loss)(1.0, SCORE)
    assert np.isfinite(jax.grad(loss)(1.0, "reparameterized"))
    bits = lambda q: numpyro.sample("z", dist.Bernoulli(q))
    of = lambda p: rgrad.SVILoss(2).loss(KEY, {"p": p}, lambda: bits(0.3), lambda: bits(numpyro.param("p", 0.5)))
    assert np.isnan(jax.jit(jax.grad(of))(0.0))
    assert np.isfinite(jax.jit(jax.grad(of))(0.5))


LOO_OF = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
BAD = {
    "unknown site": ({"estimators": {"w": LOO}}, ValueError, r"the guide has no latent site 'w'.*\(there are: mu, z\)"),
    "nearest site": ({"estimators": {"zz": LOO}}, ValueError, "did you mean 'z'"),
    "unknown name": ({"estimators": {"z": "enumerate"}}, ValueError, "SVILoss: site 'z': unknown estimator 'enumerate'; did you mean"),
    "no path": ({"estimators": {"z": "reparameterized"}}, TypeError, "site 'z': reparameterized needs q.rsample, .* use score_function"),
    "no rule": ({"estimators": {"mu": "disarm"}}, NotImplementedError, "disarm: q must be a Bernoulli .* got Normal; use reparameterized"),
    "one particle": ({"num_particles": 1, "estimators": {"z": LOO}}, ValueError, "SVILoss: site 'z': leave_one_out needs another particle"),
    "average": ({"estimators": {"z": partial(rgrad.score_function, baseline=rgrad.moving_average())}}, ValueError, "baseline=average.value"),
    "particles": ({"num_particles": 0}, ValueError, "num_particles must be an int of at least 1, got 0"),
    "entropy": ({"entropy": "analytic"}, ValueError, "entropy must be one of 'sampled', 'exact', 'detached'"),
    "estimators": ({"estimators": [LOO]}, TypeError, "estimators must be a dict of site names"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    options, error, match = BAD[name]
    case = CASES["bit_then_normal"]
    with pytest.raises(error, match=match):
        rgrad.SVILoss(**{"num_particles": 2, **options}).loss(KEY, case.params, case.model, case.guide)
