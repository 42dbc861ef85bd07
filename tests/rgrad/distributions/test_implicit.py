"""Implicit reparameterization: of mixtures, of Beta and Dirichlet, and of anything with a distribution function."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, softmax

import rgrad
from rgrad.distributions.betas import mean_log
from rgrad.distributions.implicit import has_rsample, implicit, rsample
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
long = partial(pytest.param, marks=pytest.mark.long)

# NumPyro's distribution with two parameters for each number, and SciPy's.
FAMILIES = {
    "Normal": (dist.Normal, stats.norm),
    "StudentT": (lambda df, m: dist.StudentT(df, m, 0.7), lambda df, m: stats.t(df, m, 0.7)),
    "Gamma": (dist.Gamma, lambda a, b: stats.gamma(a, scale=1 / b)),
    "Beta": (dist.Beta, stats.beta),
    "LogNormal": (dist.LogNormal, lambda m, s: stats.lognorm(s, scale=np.exp(m))),
    "Folded": (lambda m, s: dist.FoldedDistribution(dist.Normal(m, s)), lambda m, s: stats.foldnorm(m / s, scale=s)),
    "Weibull": (lambda a, b: dist.Weibull(a, b), lambda a, b: stats.weibull_min(b, scale=a)),
}


def parameters(number, size):
    rng = np.random.default_rng([number, size])
    one, other = (jnp.asarray(rng.uniform(0.8, 2.5, (number, size))) for _ in range(2))
    return {"logits": jnp.asarray(rng.normal(size=number)), "one": one, "other": other}


def mixture(family, p):
    """A scalar, if `p` has one column."""
    one, other = p["one"], p["other"]
    parts = FAMILIES[family][0](one, other) if one.shape[1] > 1 else FAMILIES[family][0](one[:, 0], other[:, 0])
    return dist.MixtureSameFamily(dist.Categorical(logits=p["logits"]), parts.to_event(one.ndim - 1) if one.shape[1] > 1 else parts)  # fmt: skip


def at_same_uniforms(family, p, x, change):
    """The derivative of the sample x, by inverting its distribution functions one by one at parameters on either side."""
    flat, unravel = ravel_pytree(p)

    def of(theta):
        found = unravel(theta)
        return softmax(np.asarray(found["logits"])), FAMILIES[family][1](np.asarray(found["one"]), np.asarray(found["other"]))  # fmt: skip

    def coordinates(theta, x_or_u, invert):
        w, parts = of(theta)
        found = []
        for d, given in enumerate(x_or_u):
            at = lambda x, w=w, d=d: w @ parts.cdf(x)[:, d] / w.sum()
            if invert:
                found.append(brentq(lambda x, u=given, at=at: at(x) - u, x[d] - 0.05, x[d] + 0.05, xtol=1e-15))
            else:
                found.append(at(given))
            w = w * parts.pdf(found[-1] if invert else given)[:, d]
        return np.array(found)

    h = 1e-4
    u = coordinates(flat, x, False)
    ahead, behind = (coordinates(flat + sign * h * change, u, True) for sign in (1, -1))
    return (ahead - behind) / (2 * h)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "family", ["Normal", "StudentT", *map(long, ("Gamma", "Beta", "LogNormal", "Folded", "Weibull"))]
)
def test_a_sample_of_a_mixture_moves_with_its_uniforms(family, size, x64):
    """Without randomness: the derivative of each of four samples, to 1e-6."""
    p = parameters(3, size)
    flat, unravel = ravel_pytree(p)
    change = jnp.asarray(np.random.default_rng(5).normal(size=flat.size))
    x = np.random.default_rng(6).uniform(0.1, 0.9, (4, size))  # inside of all supports
    x = x if family == "Beta" else 3 * x
    moved = lambda theta: implicit(mixture(family, unravel(theta)), jnp.asarray(x if size > 1 else x[:, 0]))
    values, moves = jax.jit(lambda change: jax.jvp(moved, (flat,), (change,)))(change)
    np.testing.assert_array_equal(values, x if size > 1 else x[:, 0])
    for at, move in zip(x, np.reshape(moves, (4, size)), strict=True):
        np.testing.assert_allclose(move, at_same_uniforms(family, p, at, np.asarray(change)), rtol=1e-6, atol=1e-7)


def normal_vectors(p):
    return dist.MultivariateNormal(p["loc"], scale_tril=p["tril"])


def test_a_mixture_of_correlated_normals(x64):
    """The same for components with a covariance, also as a `MixtureGeneral`, by differences of conditional normals."""
    tril = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 0.6]])
    p = {"logits": np.array([0.3, -0.2]), "loc": np.arange(6.0).reshape(2, 3) / 4, "tril": np.stack([tril, 0.9 * tril])}
    change = jax.tree.map(np.random.default_rng(5).normal, p, jax.tree.map(lambda x: 0 * x + 0.3, p))
    change["tril"] = np.tril(change["tril"])
    x = np.array([[0.3, -0.4, 1.2], [1.0, 0.5, 0.1]])

    def uniforms(p, x):
        w, u = softmax(p["logits"]), []
        for d in range(3):
            each = []
            for loc, tril in zip(p["loc"], p["tril"], strict=True):
                c = tril @ tril.T
                gain = c[d, :d] @ np.linalg.inv(c[:d, :d])
                each.append(stats.norm(loc[d] + gain @ (x[:d] - loc[:d]), np.sqrt(c[d, d] - gain @ c[:d, d])))
            u.append(w @ [part.cdf(x[d]) for part in each] / w.sum())
            w = w * [part.pdf(x[d]) for part in each]
        return np.array(u)

    def expected(x, h=1e-5):
        ahead, behind = (jax.tree.map(lambda a, b, s=s: a + s * h * b, p, change) for s in (1, -1))
        of_p = (uniforms(ahead, x) - uniforms(behind, x)) / (2 * h)
        of_x = np.stack([(uniforms(p, x + h * e) - uniforms(p, x - h * e)) / (2 * h) for e in np.eye(3)], -1)
        return -np.linalg.solve(of_x, of_p)

    weights = lambda p: dist.Categorical(logits=p["logits"])
    parts = lambda p: [normal_vectors(jax.tree.map(lambda leaf, k=k: leaf[k], p)) for k in range(2)]
    for make in (
        lambda p: dist.MixtureSameFamily(weights(p), normal_vectors(p)),
        lambda p: dist.MixtureGeneral(weights(p), parts(p)),
    ):
        moves = jax.jit(lambda p, v, make=make: jax.jvp(lambda p: implicit(make(p), jnp.asarray(x)), (p,), (v,))[1])
        np.testing.assert_allclose(moves(p, change), [expected(one) for one in x], rtol=1e-7)


CONCENTRATIONS = [
    (0.05, 0.05),
    (0.1, 0.1),
    (0.5, 0.5),
    (2.0, 3.0),
    (10.0, 10.0),
    (100.0, 1.0),
    (0.05, 20.0),
    (1e4, 2e4),
]


def of_quantile(x, a, b):
    """The derivatives of the quantile of a Beta in a and b, by differences of SciPy's distribution function."""
    h = 1e-5
    by_a = (betainc(a * (1 + h), b, x) - betainc(a * (1 - h), b, x)) / (2 * a * h)
    by_b = (betainc(a, b * (1 + h), x) - betainc(a, b * (1 - h), x)) / (2 * b * h)
    return -np.stack([by_a, by_b], -1) / stats.beta(a, b).pdf(x)[..., None]


@pytest.mark.parametrize("width", [32, long(64)])
def test_a_beta_moves_as_its_quantile(width):
    """Within 3e-4 in 32 bits, also at concentrations of .05, and 1e-5 in 64 bits, which is what the differences allow."""
    with jax.enable_x64(width == 64):
        kind = float if width == 64 else np.float32
        f = jax.jit(jax.vmap(jax.grad(lambda p, x: implicit(dist.Beta(*p), x)), (None, 0)))
        for a, b in CONCENTRATIONS:
            x = stats.beta(a, b).ppf([0.003, 0.1, 0.35, 0.5, 0.6, 0.9, 0.997])
            x = np.where((x > 1e-30) & (x < 0.999), x, 0.3).astype(kind)
            found = f(np.array([a, b], kind), x)
            np.testing.assert_allclose(found, of_quantile(x.astype(float), a, b), rtol={32: 3e-4, 64: 1e-5}[width])


def test_the_mean_logarithm():
    """Without cancellation, in 32 bits: digamma(a) - digamma(a + b), at b down to a millionth of a."""
    from scipy.special import digamma, polygamma

    for a, b in [*CONCENTRATIONS, (0.3, 200.0)]:
        assert float(mean_log(jnp.float32(a), jnp.float32(b))) == pytest.approx(digamma(a) - digamma(a + b), rel=3e-6)
    assert float(mean_log(jnp.float32(100.0), jnp.float32(1e-4))) == pytest.approx(
        -1e-4 * polygamma(1, 100.0), rel=3e-6
    )


PLACES = [(0.1, 0.1), (0.5, 0.5), (2.0, 3.0), (10.0, 10.0), (100.0, 1.0)]


def test_the_variance_of_a_beta_is_the_implicit_one():
    """Of the gradient of E[x], per sample, integrated over the quantile: within 1.001 of that of SciPy's distribution.

    The ratios of Gammas, which NumPyro differentiates, have 1.99, 1.86, 2.38, 1.99 and 1.01 times this variance in a.
    """
    u, w = np.polynomial.legendre.leggauss(100)
    slopes = jax.jit(jax.vmap(jax.grad(lambda p, x: implicit(dist.Beta(*p), x)), (None, 0)))
    for a, b in PLACES:
        x = np.clip(stats.beta(a, b).ppf((u + 1) / 2), 1e-30, 1 - 1e-7)
        variance = lambda slope: (w / 2) @ slope**2 - ((w / 2) @ slope) ** 2
        found = variance(np.asarray(slopes(jnp.array([a, b]), x.astype(np.float32)), float))
        np.testing.assert_allclose(found, variance(of_quantile(x, a, b)), rtol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(("a", "b"), PLACES)
def test_measured_variances_of_betas(a, b):
    """Of 400,000 gradients of one sample: within 1.05 of that integrated with SciPy, at 1e-6 false failures."""
    u, w = np.polynomial.legendre.leggauss(100)
    slope = of_quantile(np.maximum(stats.beta(a, b).ppf((u + 1) / 2), 1e-30), a, b)
    truth = (w / 2) @ slope**2 - ((w / 2) @ slope) ** 2
    draw = jax.grad(lambda p, key: rgrad.expect(lambda x: x, dist.Beta(p[0], p[1]), key))
    found = rgrad.measure(partial(draw, jnp.array([a, b])), KEY, 400_000)
    low, high = found.variance_interval(1 - 1e-6)
    assert np.all(low <= 1.05 * truth)
    assert np.all(high >= truth / 1.05)
    np.testing.assert_allclose(found.variance, truth, rtol=0.05)


@pytest.mark.parametrize("second", [jax.hessian, long(lambda f: jax.jacrev(jax.jacrev(f)))], ids=["forward", "reverse"])
def test_second_derivatives_of_a_beta(second, x64):
    """Those of its quantile, by second differences of SciPy's. In forward mode over reverse mode, and in reverse twice."""
    h, steps = 1e-3, np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    moved = lambda p, x: implicit(dist.Beta(*p), x)
    hessian_of = jax.jit(second(moved))
    for p, u in ((np.array([2.0, 3.0]), 0.3), (np.array([0.4, 0.7]), 0.8), (np.array([30.0, 2.0]), 0.5)):
        x = betaincinv(*p, u)
        along = [(betaincinv(*(p + h * s), u) - 2 * x + betaincinv(*(p - h * s), u)) / h**2 for s in steps]
        hessian = hessian_of(p, x)
        np.testing.assert_allclose([s @ hessian @ s for s in steps], along, rtol=1e-4)


def test_a_dirichlet_moves_as_its_betas():
    """Two shares are a Beta and its complement. Of three, one moves with its own concentration as a Beta does.

    The other two keep their ratio.
    """
    a = jnp.array([0.3, 2.0, 1.2])
    of = lambda a, x: jax.jacfwd(lambda a: implicit(dist.Dirichlet(a), x))(a)
    x = jnp.array([0.2, 0.5, 0.3])
    moves = jax.jit(of)(a, x)
    for j in range(3):
        beta = jax.grad(lambda c, j=j: implicit(dist.Beta(c, a.sum() - a[j]), x[j]))(a[j])
        np.testing.assert_allclose(moves[:, j], beta * (jnp.eye(3)[j] - x) / (1 - x[j]), rtol=1e-5)
    two = jax.grad(lambda p: implicit(dist.Beta(*p), jnp.float32(0.2)))(jnp.array([0.3, 2.0]))
    np.testing.assert_allclose(of(jnp.array([0.3, 2.0]), jnp.array([0.2, 0.8])), [two, -two], rtol=1e-5)
    # A share that rounds to 1 - eps is known more precisely from the others.
    edge = of(jnp.array([2.0, 0.1, 0.1]), jnp.array([1.0, 1e-20, 3e-30]))
    assert np.all(np.isfinite(edge))
    assert float(edge[1, 1]) == pytest.approx(1e-20 * of_logit(1e-20, 0.1, 2.1), rel=1e-3)


def of_logit(x, a, b, h=1e-4):
    """dy/da for a small x, from `F(x) = x^a / (a B(a, b))`."""
    from scipy.special import betaln

    log_f = lambda a: a * np.log(x) - np.log(a) - betaln(a, b)
    return -(log_f(a + h) - log_f(a - h)) / (2 * h) / a


WEIGHTS = jnp.array([0.25, 0.1, 0.3, 0.15, 0.2])
LOCS = jnp.array([-1.0, 0.5, 1.0, 0.0, 2.0])


@pytest.mark.parametrize("number", [2, long(5)])
def test_the_square_of_a_mixture_of_normals(number):
    """d E[z^2] = w_k (m2_k - sum_j w_j m2_j) in the logits, 2 w_k loc_k and 2 w_k scale_k. Catches a bias of 0.03."""
    w, loc, scale = WEIGHTS[:number] / WEIGHTS[:number].sum(), LOCS[:number], 0.5 + WEIGHTS[:number]
    p = {"logits": jnp.log(w), "loc": loc, "scale": scale}

    def loss(p, key):
        q = dist.MixtureSameFamily(dist.Categorical(logits=p["logits"]), dist.Normal(p["loc"], p["scale"]))
        return rgrad.expect(lambda x: x**2, q, key, 50)

    second = loc**2 + scale**2
    truth = {"logits": w * (second - w @ second), "loc": 2 * w * loc, "scale": 2 * w * scale}
    assert_unbiased(lambda key: jax.grad(loss)(p, key), truth, smallest_bias=0.04, replicates=7_000)


BOUNDED = {"Normal": (-20, 20), "StudentT": (-400, 400), "Gamma": (1e-9, 60)}


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize("family", BOUNDED)
def test_mixtures_are_unbiased(family, number, size):
    """E[prod_d bump(x_d)] by quadrature in 64 bits, in all parameters. Catches a bias of 10 % of the largest."""
    p = parameters(number, size)
    p["one"] = p["one"] + {"StudentT": 1.5, "Gamma": 1.0, "Normal": -1.5}[family]
    bump = lambda x: 1 / (1 + (x - 1) ** 2 / 4)

    def exact(p):
        x = jnp.linspace(*BOUNDED[family], 100_001)
        each = jnp.exp(FAMILIES[family][0](p["one"][..., None], p["other"][..., None]).log_prob(x)) * bump(x)
        return jax.nn.softmax(p["logits"]) @ jnp.prod(jnp.trapezoid(each, x), -1)

    with jax.enable_x64(True):
        truth = jax.tree.map(np.asarray, jax.jit(jax.grad(exact))(jax.tree.map(lambda x: jnp.asarray(x, float), p)))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(truth))
    f = lambda x: jnp.prod(bump(jnp.atleast_1d(x))) / largest
    draw = jax.grad(lambda p, key: rgrad.expect(f, mixture(family, p), key, 50))
    truth = jax.tree.map(lambda x: x / largest, truth)
    assert_unbiased(partial(draw, jax.tree.map(jnp.float32, p)), truth, smallest_bias=0.1, replicates=8_000)


two = lambda t, parts=dist.Normal: dist.MixtureSameFamily(dist.Categorical(logits=jnp.stack([t, 0 * t])), parts(jnp.array([-1.0, 1.0]), jnp.exp(t)))  # fmt: skip
FIRST_ORDER = {
    "mixture": two,
    "vector": lambda t: dist.MixtureSameFamily(dist.Categorical(logits=jnp.stack([t, -t])), dist.Normal(t * jnp.ones((2, 3)), 1.0).to_event(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_second_derivative_raises(name):
    """Also in a scan and under vmap."""
    loss = lambda t: rgrad.expect(lambda x: jnp.sum(x) ** 2, FIRST_ORDER[name](t), KEY, 4)
    for second in (
        jax.hessian(loss),
        lambda t: jax.grad(lambda t: jax.lax.scan(lambda c, _: (c + jax.grad(loss)(t), 0.0), 0.0, length=2)[0])(t),
        lambda t: jax.vmap(jax.grad(jax.grad(loss)))(t * jnp.ones(2)),
    ):
        with pytest.raises(rgrad.NotApplicable, match=r"reparameterized\(\w+\).* first order only.*score_function"):
            jax.eval_shape(second, 0.3)


def test_the_samples_are_those_of_numpyro():
    """And the gradient is the same in jit, vmap, scan, and chunks."""
    for make in (*FIRST_ORDER.values(), lambda t: dist.Beta(t, 2.0), lambda t: dist.Dirichlet(t * jnp.ones(3))):
        np.testing.assert_array_equal(rsample(make(0.3), KEY, (5,)), make(0.3).sample(KEY, (5,)))
    loss = lambda t, key, **how: rgrad.expect(lambda x: jnp.sum(x) ** 2, FIRST_ORDER["vector"](t), key, 6, **how)
    keys = jax.random.split(KEY, 2)

    def of(t):
        each = [jax.grad(loss)(t, keys[i]) for i in range(2)]
        mapped = jax.vmap(partial(jax.grad(loss), chunk=2), (None, 0))(t, keys)
        through = jax.grad(lambda t: jax.lax.scan(lambda c, key: (c + loss(t, key), 0.0), 0.0, keys)[0])(t)
        return jnp.stack(each), mapped, through

    each, mapped, through = jax.jit(of)(0.3)
    np.testing.assert_allclose(mapped, each, rtol=1e-5)
    assert float(through) == pytest.approx(float(each.sum()), rel=1e-5)


def test_transforms_and_events():
    """A mixture or a Beta within other distributions moves as on its own."""
    exp = lambda t: dist.TransformedDistribution(two(t), dist.transforms.ExpTransform())
    scaled = lambda t: dist.TransformedDistribution(dist.Beta(t, 2.0), dist.transforms.AffineTransform(1.0, 3.0))
    event = lambda t: two(t).expand([2]).to_event(1)
    assert has_rsample(exp(0.3))
    assert has_rsample(rgrad.jax_random(event(0.3)))

    @jax.jit
    def of(t):
        live = lambda make: jax.jvp(lambda t: rsample(make(t), KEY, (4,)), (t,), (1.0,))
        x, slope = live(two)
        both, moves = live(event)
        alone = jax.jvp(lambda t: implicit(two(t), both.ravel()), (t,), (1.0,))[1]
        beta = live(lambda t: dist.Beta(t, 2.0))[1]
        return [
            (live(exp)[1], jnp.exp(x) * slope),
            (live(scaled)[1], 3 * beta),
            (moves.ravel(), alone),
            (live(lambda t: rgrad.jax_random(two(t)))[1], slope),
        ]

    for found, expected in of(0.4):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_elbo_with_a_mixture():
    """If q is the target, each detached gradient is 0. Elsewhere both are unbiased. Catches 0.05."""
    normal = lambda z: jax.scipy.stats.norm.logpdf(z, 0.5, 1.5)
    x = np.linspace(-12.0, 12.0, 20_001)

    def exact(t):
        log_q = two(t).log_prob(x)
        return jnp.trapezoid(jnp.exp(log_q) * (normal(x) - log_q), x)

    with jax.enable_x64(True):
        truth = float(jax.jit(jax.grad(exact))(0.2))
    ways = {"sampled": (normal, "sampled"), "detached": (normal, "detached"), "zero": (two(0.2).log_prob, "detached")}

    def draw(key):
        bound = lambda t, target, how: rgrad.elbo(target, two(t), key, 20, entropy=how)
        return {name: jax.grad(bound)(0.2, *way) for name, way in ways.items()}

    assert_unbiased(draw, {"sampled": truth, "detached": truth, "zero": 0.0}, smallest_bias=0.05, replicates=4_000)
    assert abs(jax.jit(draw)(KEY)["zero"]) < 1e-6


REFUSED = {
    "discrete": (
        lambda t: dist.MixtureSameFamily(dist.Categorical(probs=jnp.ones(2) / 2), dist.Poisson(t * jnp.ones(2))),
        "its components are discrete \\(Poisson\\)",
    ),
    "no cdf": (
        lambda t: dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.ones(2) / 2), dist.MultivariateStudentT(5.0, t * jnp.ones((2, 2)), jnp.eye(2))
        ),
        "its components \\(MultivariateStudentT\\) have no distribution function",
    ),
    "a gap": (
        lambda t: dist.MixtureGeneral(dist.Categorical(logits=jnp.stack([t, -t])), [dist.Uniform(0, 1), dist.Uniform(2, 3)]),
        "the supports of its components may differ",
    ),
    "an own support": (
        lambda t: dist.MixtureGeneral(
            dist.Categorical(logits=jnp.stack([t, -t])), [dist.Normal(t, 1.0), dist.HalfNormal(t)],
            support=dist.constraints.real,
        ),
        "the supports of its components may differ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_mixtures_that_are_refused(name):
    make, why = REFUSED[name]
    loss = lambda t, estimator: rgrad.expect(lambda x: jnp.sum(x * 1.0), make(t), KEY, 4, estimator)
    with pytest.raises(rgrad.NotApplicable, match=f"reparameterized needs q.rsample, and Mixture.* has none: {why}.*; use score_function"):  # fmt: skip
        jax.eval_shape(jax.grad(partial(loss, estimator=rgrad.reparameterized)), 0.7)
    jax.eval_shape(jax.grad(partial(loss, estimator=rgrad.score_function)), 0.7)


class Sech(dist.Distribution):
    """A class with a distribution function and without an `rsample`, as a user writes one: x = loc + log tan(pi u / 2)."""

    arg_constraints = {"loc": dist.constraints.real}  # noqa: RUF012
    support = dist.constraints.real
    factor = 1.0

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        shape = sample_shape + self.batch_shape
        return jax.lax.stop_gradient(self.loc + jnp.log(jnp.tan(jnp.pi / 2 * jax.random.uniform(key, shape))))

    def log_prob(self, x):
        return jnp.log(1 / jnp.pi) - jnp.logaddexp(x - self.loc, self.loc - x) + jnp.log(2.0)

    def cdf(self, x):
        return self.factor * 2 / jnp.pi * jnp.arctan(jnp.exp(x - self.loc))


class Wrong(Sech):
    """Its `cdf` is not the integral of its density."""

    factor = 1.1


def test_anything_with_a_distribution_function():
    for make in (Sech, lambda t: Sech(t * jnp.ones(2)).to_event(1), lambda t: Sech(t).expand([2]).to_event(1)):
        loss = lambda t, make=make: rgrad.expect(lambda x: jnp.sum(x**2), make(t), KEY, 8)
        x = make(0.3).sample(KEY, (8,))
        assert float(jax.grad(loss)(0.3)) == pytest.approx(float(2 * x.sum() / 8), rel=1e-4)  # dx = dloc
    assert np.isnan(jax.grad(lambda t: rgrad.expect(lambda x: x**2, Wrong(t), KEY, 8))(0.3))


SCALE = jnp.array([[1.0, 0.3], [0.3, 0.8]])
AS_DRAWN = {
    "Wishart": (lambda t: dist.Wishart(t, t * SCALE), 5.0, jnp.trace, lambda t: t**2 * 1.8),
    "InverseWishart": (lambda t: dist.InverseWishart(t, t * SCALE), 9.0, jnp.trace, lambda t: t / (t - 3) * 1.8),
    "EulerMaruyama": (
        lambda t: dist.EulerMaruyama(jnp.array([0.0, 0.5, 1.0]), lambda x, s: (-x, t), dist.Normal(t, 1.0)),
        0.8,
        lambda x: x[2] ** 2,
        lambda t: (t / 4) ** 2 + 0.25 * (0.25 + 0.5 * t**2) + 0.5 * t**2,
    ),
}


@pytest.mark.parametrize("name", [*map(long, ("Wishart", "InverseWishart")), "EulerMaruyama"])
def test_samplers_that_numpyro_does_not_call_reparameterized(name):
    """In all parameters: the degrees of freedom of a Wishart too. Catches a bias of 3 %."""
    make, t, f, exact = AS_DRAWN[name]
    truth = float(jax.grad(exact)(t))
    loss = lambda t, key: rgrad.expect(f, make(t), key, 50) / truth
    assert_unbiased(lambda key: jax.grad(loss)(t, key), 1.0, smallest_bias=0.03, replicates=8_000)


def test_an_euler_maruyama_that_starts_at_random_integers_is_refused():
    q = dist.EulerMaruyama(jnp.array([0.0, 0.5]), lambda x, s: (-x, 1.0), dist.Poisson(2.0))
    assert not has_rsample(q)
