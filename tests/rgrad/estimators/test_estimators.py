"""Every estimator on every kind of distribution: gradient and Hessian against closed forms, at 1e-6 false failures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import i0e, i1e

import rgrad
from rgrad.distributions.gammas import as_gammas
from rgrad.distributions.standardised import by_moments
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


def drawn(draws, estimator):
    return lambda f, q, key, n: estimator(f, draws(q), key, n)


# The estimators of the table, and some of them with other options.
ESTIMATORS = {name: row.estimator for name, row in rgrad.ESTIMATORS.items()} | {
    "score_function+number": partial(rgrad.score_function, baseline=2.0),
    "score_function+moving_average": partial(rgrad.score_function, baseline=rgrad.moving_average(0.5).update(1.5)),
    "score_function+function": partial(rgrad.score_function, baseline=lambda v: jnp.roll(v, 1)),
    "score_function+delta+leave_one_out": partial(leave_one_out, control_variate=rgrad.delta),
    "score_function+known": partial(leave_one_out, control_variate=lambda f, q: (jnp.sum, jnp.sum(q.mean))),
    "score_function+antithetic+pairs": drawn(rgrad.antithetic, partial(rgrad.score_function, baseline=rgrad.leave_pair_out)),
    "score_function+quasi+number": drawn(rgrad.quasi, partial(rgrad.score_function, baseline=2.0)),
    "generalized+antithetic": drawn(rgrad.antithetic, rgrad.generalized),
    "rejection+3": partial(rgrad.rejection, augmentation=3),
}  # fmt: skip
LOWER = jnp.array([[1.0, 0.0], [0.5, 0.8]])
W = jnp.array([1.0, -0.5])
W3 = jnp.array([1.0, -0.5, 0.7])
SHAPES, RATES = jnp.meshgrid(jnp.array([0.1, 1.0, 2.0, 5.0]), jnp.array([0.2, 1.0, 5.0]))


def mvn(p):
    return dist.MultivariateNormal(p["loc"], scale_tril=jnp.tril(p["scale_tril"]))


def cos_of_normal(loc, covariance):
    return jnp.cos(jnp.dot(W, loc)) * jnp.exp(-W @ covariance @ W / 2)


def vector(p):
    return dist.Normal(p["loc"], jnp.exp(p["log_scale"])).to_event(1)


VECTOR = {"loc": jnp.array([0.5, 1.0, -0.4]), "log_scale": jnp.array([0.1, -0.3, 0.2])}
LOG_NORMAL = {"loc": 1.0, "log_scale": 1.0}  # for the powers: mu and log sigma are 1


def bump(x):
    return 1 / (1 + x**2)


def located(family, low=-60.0, high=60.0, f=jnp.cos):
    """A family with loc and scale, and the expectation of f by the trapezoidal rule."""
    q = lambda p: family(p["loc"], p["scale"])
    x, dx = jnp.linspace(low, high, 60_001, retstep=True)
    return q, lambda p, x: f(x), {"loc": 0.4, "scale": 0.7}, lambda p: jnp.sum(jnp.exp(q(p).log_prob(x)) * f(x)) * dx


# name: (params -> q, (params, x) -> value, params, the exact expectation as a function of params)
PROBLEMS = {
    "constant": (lambda p: dist.Normal(p["loc"], 1.0), lambda p, x: 3.0, {"loc": 2.0}, lambda p: 3.0 + 0 * p["loc"]),
    "x^2, loc and scale": (
        lambda p: dist.Normal(p["loc"], p["scale"]), lambda p, x: x**2, {"loc": 1.0, "scale": 1.5},
        lambda p: p["loc"] ** 2 + p["scale"] ** 2,
    ),
    "theta x^2, theta in f too": (
        lambda p: dist.Normal(p["theta"], 1.0), lambda p, x: p["theta"] * x**2, {"theta": 1.0},
        lambda p: p["theta"] * (p["theta"] ** 2 + 1),
    ),
    "x^3": (
        lambda p: dist.Normal(p["loc"], jnp.exp(p["log_scale"])), lambda p, x: x**3, LOG_NORMAL,
        lambda p: p["loc"] ** 3 + 3 * p["loc"] * jnp.exp(2 * p["log_scale"]),  # 3 + 3 e^2, 6 e^2
    ),
    "x^4": (
        lambda p: dist.Normal(p["loc"], jnp.exp(p["log_scale"])), lambda p, x: x**4, LOG_NORMAL,
        lambda p: p["loc"] ** 4 + 6 * p["loc"] ** 2 * jnp.exp(2 * p["log_scale"]) + 3 * jnp.exp(4 * p["log_scale"]),
    ),
    "sum x": (vector, lambda p, x: jnp.sum(x), VECTOR, lambda p: jnp.sum(p["loc"])),
    "sum x^2/2": (
        vector, lambda p, x: jnp.sum(x**2) / 2, VECTOR,
        lambda p: jnp.sum(p["loc"] ** 2 + jnp.exp(2 * p["log_scale"])) / 2,
    ),
    "w.x": (vector, lambda p, x: jnp.dot(W3, x), VECTOR, lambda p: jnp.dot(W3, p["loc"])),
    "(w.x)^2": (
        vector, lambda p, x: jnp.dot(W3, x) ** 2, VECTOR,
        lambda p: jnp.dot(W3, p["loc"]) ** 2 + jnp.sum(W3**2 * jnp.exp(2 * p["log_scale"])),
    ),
    "full covariance": (
        mvn, lambda p, x: jnp.cos(jnp.dot(W, x)), {"loc": jnp.array([0.5, 1.0]), "scale_tril": LOWER},
        lambda p: cos_of_normal(p["loc"], jnp.tril(p["scale_tril"]) @ jnp.tril(p["scale_tril"]).T),
    ),
    "covariance": (
        lambda p: dist.MultivariateNormal(W, covariance_matrix=p["c"] * LOWER @ LOWER.T),
        lambda p, x: jnp.cos(jnp.dot(W, x)), {"c": 1.3}, lambda p: cos_of_normal(W, p["c"] * LOWER @ LOWER.T),
    ),
    "precision": (
        lambda p: dist.MultivariateNormal(W, precision_matrix=p["c"] * LOWER @ LOWER.T),
        lambda p, x: jnp.cos(jnp.dot(W, x)), {"c": 1.3},
        lambda p: cos_of_normal(W, jnp.linalg.inv(LOWER @ LOWER.T) / p["c"]),
    ),
    "low rank": (
        lambda p: dist.LowRankMultivariateNormal(W, p["factor"], p["diagonal"]), lambda p, x: jnp.cos(jnp.dot(W, x)),
        {"factor": jnp.array([[0.6], [-0.4]]), "diagonal": jnp.array([0.5, 0.8])},
        lambda p: cos_of_normal(W, p["factor"] @ p["factor"].T + jnp.diag(p["diagonal"])),
    ),
    "StudentT": (
        lambda p: dist.StudentT(p["df"], p["loc"], p["scale"]), lambda p, x: bump(x),
        {"df": 3.0, "loc": 0.4, "scale": 0.7},
        lambda p: located(partial(dist.StudentT, p["df"]), -2000.0, 2000.0, bump)[3](p),
    ),
    "theta cos x, theta in f too": (
        lambda p: dist.Normal(p["loc"], p["scale"]), lambda p, x: p["theta"] * jnp.cos(x),
        {"loc": 0.6, "scale": 0.9, "theta": 1.5},
        lambda p: p["theta"] * jnp.cos(p["loc"]) * jnp.exp(-(p["scale"] ** 2) / 2),
    ),
    "Laplace": (
        lambda p: dist.Laplace(p["loc"], p["scale"]), lambda p, x: jnp.cos(x), {"loc": 0.4, "scale": 0.7},
        lambda p: jnp.cos(p["loc"]) / (1 + p["scale"] ** 2),
    ),
    "Logistic": located(dist.Logistic),
    "Cauchy": (
        lambda p: dist.Cauchy(p["loc"], p["scale"]), lambda p, x: bump(x), {"loc": 0.4, "scale": 0.7},
        lambda p: (1 + p["scale"]) / ((1 + p["scale"]) ** 2 + p["loc"] ** 2),
    ),
    "TruncatedNormal": located(partial(dist.TruncatedNormal, low=0.0), 0.0, 12.0),
    "VonMises": (
        lambda p: dist.VonMises(p["loc"], p["kappa"]), lambda p, x: jnp.cos(x - 1.0), {"loc": 0.3, "kappa": 1.5},
        lambda p: jnp.cos(p["loc"] - 1.0) * i1e(p["kappa"]) / i0e(p["kappa"]),
    ),
    "Gamma": (
        lambda p: dist.Gamma(p["a"], p["b"]), lambda p, x: x, {"a": 2.0, "b": 1.5}, lambda p: p["a"] / p["b"],
    ),
    "Dirichlet": (
        lambda p: dist.Dirichlet(p["a"]), lambda p, x: x[0] - 2 * x[2], {"a": jnp.array([1.5, 1.0, 2.0])},
        lambda p: (p["a"][0] - 2 * p["a"][2]) / jnp.sum(p["a"]),
    ),
    "Gamma's rate": (
        lambda p: dist.Gamma(0.7, p["b"]), lambda p, x: x**2, {"b": 1.5}, lambda p: 0.7 * 1.7 / p["b"] ** 2,
    ),
    "Exponential": (
        lambda p: dist.Exponential(p["b"]), lambda p, x: x, {"b": 0.8}, lambda p: 1 / p["b"],
    ),
    "Beta": (
        lambda p: dist.Beta(p["a"], p["b"]), lambda p, x: x, {"a": 2.0, "b": 1.5}, lambda p: p["a"] / (p["a"] + p["b"]),
    ),
    "LogNormal": (
        lambda p: dist.LogNormal(p["loc"], p["scale"]), lambda p, x: x, {"loc": 0.3, "scale": 0.5},
        lambda p: jnp.exp(p["loc"] + p["scale"] ** 2 / 2),
    ),
    "InverseGamma": (
        lambda p: dist.InverseGamma(p["a"], p["b"]), lambda p, x: jnp.log(x), {"a": 2.0, "b": 1.5},
        lambda p: jnp.log(p["b"]) - jax.scipy.special.digamma(p["a"]),
    ),
    "Bernoulli": (
        lambda p: dist.Bernoulli(probs=p["p"]), lambda p, x: (x - 0.45) ** 2, {"p": 0.3},
        lambda p: p["p"] * 0.55**2 + (1 - p["p"]) * 0.45**2,
    ),
    "vector of Bernoullis": (
        lambda p: dist.Bernoulli(logits=p["l"]).to_event(1), lambda p, x: jnp.sum(x) ** 2,
        {"l": jnp.array([0.5, -1.0])},
        lambda p: jnp.sum(jax.nn.sigmoid(p["l"])) + 2 * jnp.prod(jax.nn.sigmoid(p["l"])),
    ),
    "Poisson": (
        lambda p: dist.Poisson(p["rate"]), lambda p, x: x**2, {"rate": 1.5}, lambda p: p["rate"] + p["rate"] ** 2,
    ),
}  # fmt: skip
DISCRETE = ("Bernoulli", "vector of Bernoullis", "Poisson")
SQUARES = ("x^2, loc and scale", "theta x^2, theta in f too")
VECTORS = ("sum x", "sum x^2/2", "w.x", "(w.x)^2")
SCALARS = ("constant", *SQUARES, "x^3", "x^4")
# The problems that each estimator is tested on.
RULES = {
    "reparameterized": [name for name in PROBLEMS if name not in DISCRETE],
    "reparameterized+antithetic": (*SQUARES, "x^4", "(w.x)^2", "full covariance", "low rank", "LogNormal"),
    "reparameterized+stratified": ("x^2, loc and scale", "(w.x)^2", "Laplace"),
    "reparameterized+quasi": ("x^4", "full covariance", "TruncatedNormal"),
    "score_function": (*SCALARS, "sum x"),
    "score_function+number": SQUARES,
    "score_function+leave_one_out": list(PROBLEMS),
    "score_function+moving_average": SQUARES,
    "score_function+function": SQUARES,
    "score_function+optimal": (*SCALARS, "(w.x)^2", "full covariance", "LogNormal", *DISCRETE),
    "score_function+delta": (*SCALARS, "(w.x)^2", "full covariance"),
    "score_function+delta+leave_one_out": ("theta x^2, theta in f too", "x^4", "covariance"),
    "score_function+known": ("x^2, loc and scale", "(w.x)^2", "Gamma", "Poisson"),
    "score_function+antithetic": ("theta x^2, theta in f too",),
    "score_function+antithetic+pairs": (*SQUARES, "(w.x)^2", "Bernoulli", "covariance"),
    "score_function+stratified": ("theta x^2, theta in f too",),
    "score_function+quasi": ("theta x^2, theta in f too",),
    "score_function+quasi+number": (*SQUARES, "vector of Bernoullis"),
    "generalized": (*SCALARS, "(w.x)^2", "Gamma", "Beta", "Dirichlet", "LogNormal", "InverseGamma"),
    "generalized+antithetic": SQUARES,
    "rejection": ("Gamma", "Beta", "Dirichlet"),
    "rejection+3": ("Gamma", "Dirichlet"),
    "measure_valued": (*SCALARS, *VECTORS, "Gamma's rate", "Exponential", "LogNormal", *DISCRETE),
    "measure_valued+independent": ("x^2, loc and scale", "(w.x)^2", "Gamma's rate", "Poisson"),
}
# Tested in test_discrete.py, test_go.py, test_unordered.py and test_biased.py.
ELSEWHERE = {
    "enumerated", "arm", "disarm", "rebar", "gumbel_softmax", "straight_through", "go", "unordered", "reinmax", "gumbel_rao",
}  # fmt: skip


def test_every_estimator_of_the_table_is_tested():
    assert set(rgrad.ESTIMATORS) - ELSEWHERE <= set(RULES)


# Each problem takes seconds, mostly to compile. The fast tests use one of each kind of rule, the long ones use all.
CORE = (
    "x^2, loc and scale", "theta x^2, theta in f too", "(w.x)^2", "full covariance", "StudentT", "VonMises", "Gamma", "Dirichlet",
    "LogNormal", "Exponential", "Bernoulli", "Poisson",
)  # fmt: skip
# (Quasi-random draws and the optimal baseline have their own exact tests.)
ALWAYS = (
    "reparameterized", "score_function+leave_one_out", "score_function+delta", "score_function+antithetic+pairs", "generalized",
    "rejection", "measure_valued",
)  # fmt: skip
# The Hessians of the others consist of the same parts.
HESSIANS = ("reparameterized", "score_function+leave_one_out", "score_function+optimal", "generalized")
MORE_HESSIANS = (
    "score_function", "score_function+moving_average", "score_function+delta", "score_function+known",
    "score_function+antithetic+pairs",
)  # fmt: skip
long = partial(pytest.param, marks=pytest.mark.long)


def loss_of(name, estimator, n):
    q, f, params, exact = PROBLEMS[name]
    loss = lambda p, key: rgrad.expect(partial(f, p), q(p), key, n, ESTIMATORS[estimator])
    return loss, jax.tree.map(jnp.asarray, params), exact


@pytest.mark.parametrize(
    ("estimator", "problems"),
    [(name, CORE) for name in ALWAYS] + [long(name, tuple(PROBLEMS)) for name in RULES],
    ids=lambda x: x if isinstance(x, str) else "core" if x is CORE else "all",
)
def test_gradient_is_unbiased(estimator, problems):
    """All problems of one estimator in one program.

    Catches a bias of 15 % of the largest gradient coordinate in each (and of 1 for the constant, whose gradient is 0).
    """
    parts, truth = {}, {}
    for name in (name for name in RULES[estimator] if name in problems):
        loss, params, exact = loss_of(name, estimator, 50)
        gradient = jax.jit(jax.grad(exact))(params)
        size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) or 1.0
        truth[name] = jax.tree.map(lambda x, size=size: x / size, gradient)
        parts[name] = (loss, params, size)

    def draw(key):
        one = lambda loss, params, size: jax.tree.map(lambda x: x / size, jax.grad(loss)(params, key))
        return {name: one(*part) for name, part in parts.items()}

    assert_unbiased(draw, truth, smallest_bias=0.15, replicates=60_000 if "optimal" in estimator else 25_000)


@pytest.mark.parametrize(
    "estimator", [*map(long, ("generalized", "reparameterized", "score_function+leave_one_out")), "rejection"]
)
def test_gamma_by_shape_and_rate(estimator):
    """E[1 - exp(-b x)] = 1 - 2^-a at a in {.1, 1, 2, 5} and b in {.2, 1, 5}: d/da = 2^-a log 2, d/dlog b = -a 2^-a / 2.

    Catches a bias of 15 % of each. The score function runs in 64 bits: in 32 bits a sample at a = .1 may round to 0,
    where the density is infinite.
    """

    def loss(p, b, key):
        q = dist.Gamma(p["a"], b * jnp.exp(p["t"]))
        return rgrad.expect(lambda x: 1 - jnp.exp(-b * x), q, key, 50, ESTIMATORS[estimator])

    truth = {"a": 2**-SHAPES * jnp.log(2), "t": -SHAPES * 2**-SHAPES / 2}

    def draw(key):
        p = {"a": SHAPES, "t": jnp.zeros_like(SHAPES)}
        found = jax.vmap(jax.vmap(jax.grad(loss)))(p, RATES, jax.random.split(key, SHAPES.shape))
        return jax.tree.map(jnp.divide, found, truth)

    with jax.enable_x64(estimator.startswith("score")):
        assert_unbiased(draw, jax.tree.map(jnp.ones_like, truth), smallest_bias=0.15, replicates=5_000)


@pytest.mark.parametrize("estimator", [*HESSIANS, *map(long, MORE_HESSIANS)])
def test_hessian_is_unbiased(estimator):
    """Catches a bias of 0.2 if the largest entry is 0.8. Omitting the score of the score would be off by more."""
    loss, params, exact = loss_of("theta cos x, theta in f too", estimator, 50)
    draw = lambda key: jax.hessian(loss)(params, key)
    assert_unbiased(
        draw,
        jax.jit(jax.hessian(exact))(params),
        smallest_bias=0.2,
        replicates=120_000 if "delta" in estimator else 40_000,
    )


@pytest.mark.parametrize(
    ("width", "estimator"), [long(64, "reparameterized"), (32, "reparameterized"), (32, "generalized")]
)
def test_small_concentrations(width, estimator):
    """d E[x] at Beta(.02, .02) is (12.5, -12.5). Catches 5 %."""

    def draw(key):
        loss = lambda p: rgrad.expect(lambda x: x, dist.Beta(p[0], p[1]), key, 50, ESTIMATORS[estimator])
        return jax.grad(loss)(jnp.array([0.02, 0.02]))

    with jax.enable_x64(width == 64):
        replicates = 60_000 if estimator == "generalized" else 20_000
        assert_unbiased(draw, np.array([12.5, -12.5]), smallest_bias=0.6, replicates=replicates)


def test_leave_one_out_on_the_two_sample_minimum():
    """n = 2, where a baseline that sees its own sample is off by half. Catches 0.2 of 4."""
    loss = lambda t, key: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, 2, leave_one_out)
    assert_unbiased(lambda key: jax.grad(loss)(2.0, key), 4.0, smallest_bias=0.2, replicates=200_000)


@pytest.mark.parametrize("kind", [long("scalar"), "vector", long("full covariance")])
def test_64_bit(kind, x64):
    """Terms and gradients are 64-bit floats. The variances equal the exact ones of the same draws up to rounding."""
    q = {
        "scalar": lambda t: dist.Normal(t, 1.0),
        "vector": lambda t: dist.Normal(t * jnp.ones(2), 1.0).to_event(1),
        "full covariance": lambda t: dist.MultivariateNormal(t * jnp.ones(2), jnp.eye(2)),
    }[kind]
    for name, estimator in ESTIMATORS.items():
        if (name.startswith(("rejection", "generalized", "measure")) and kind != "scalar") or name.startswith(
            "rejection"
        ):
            continue  # no rule
        if name in ELSEWHERE:
            continue
        loss = lambda t, key, e=estimator: rgrad.expect(lambda x: jnp.sum(x**2), q(t), key, 10, e)
        value, gradient = jax.jit(jax.value_and_grad(loss))(2.0, jax.random.key(0))
        assert value.dtype == gradient.dtype == jnp.float64
        assert np.isfinite(gradient)


def test_reparameterized_needs_rsample():
    with pytest.raises(TypeError, match=r"reparameterized needs q.rsample, and Bernoulli has none; use score_function"):
        rgrad.expect(lambda x: x, dist.Bernoulli(0.3), jax.random.key(0))
    with pytest.raises(TypeError, match="Categorical has none"):
        rgrad.expect(lambda x: x, dist.Categorical(logits=jnp.zeros(3)), jax.random.key(0))


@pytest.mark.parametrize("wrap", [jax.grad, jax.hessian])
def test_the_special_cases_of_the_generalised_reparameterization(wrap):
    """The identity gives the numbers of the score function, and a map with all parameters those of the pathwise one."""
    f = lambda x: jnp.sin(x) + x**2

    def loss(p, key, estimator_of):
        q = dist.Normal(p[0], p[1])
        return rgrad.expect(f, q, key, 10, estimator_of(q))

    p, key = jnp.array([0.7, 1.3]), jax.random.key(1)
    same = lambda z: z
    identity = lambda q: partial(rgrad.generalized, transform=(same, same))
    whole = lambda q: partial(
        rgrad.generalized, transform=(lambda e: q.loc + q.scale * e, lambda z: (z - q.loc) / q.scale)
    )
    for mine, theirs in ((identity, rgrad.score_function), (whole, rgrad.reparameterized)):
        of = jax.jit(wrap(loss), static_argnums=2)
        got, want = of(p, key, mine), of(p, key, lambda q, e=theirs: e)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_measure_valued_has_the_published_variance():
    """Mohamed et al. 2020: (x - k)^2 at N(1, 1), d = 1 - k = 4, coupled.

    The variance is (16 / 2 pi) (2 - pi/2) d^2 for loc and 4 d^2 + 4 for scale. Within intervals at level 1 - 1e-7.
    Catches a variance that is off by 3 %.
    """

    def draw(key):
        loss = lambda p: rgrad.expect(lambda x: (x + 3) ** 2, dist.Normal(p[0], p[1]), key, 1, rgrad.measure_valued)
        return jax.grad(loss)(jnp.array([1.0, 1.0]))

    moments = rgrad.measure(draw, jax.random.key(0), 400_000)
    low, high = moments.variance_interval(1 - 1e-7)
    truth = np.array([16 / (2 * np.pi) * (2 - np.pi / 2) * 16, 4 * 16 + 4])
    assert np.all((low <= truth) & (truth <= high)), (low, high, truth)
    assert np.all(high - low < 0.06 * truth)


def test_measure_valued_of_a_step_where_the_trick_is_silent():
    """d/dloc P(x > 0) = phi(0) = 0.3989 at N(0, 1). The pathwise gradient is 0. Catches 0.02."""
    step = lambda estimator: (
        lambda key: jax.grad(lambda t: rgrad.expect(lambda x: x > 0, dist.Normal(t, 1.0), key, 10, estimator))(0.0)
    )
    assert_unbiased(step(rgrad.measure_valued), (2 * np.pi) ** -0.5, smallest_bias=0.02)
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(step(rgrad.reparameterized), (2 * np.pi) ** -0.5, smallest_bias=0.02)


def test_nested_under_the_estimators_with_points_of_their_own():
    """E[x y], y ~ N(x, 1), by a nested expectation: gradient 2 t = 4. Catches 0.15."""
    inner = lambda x, key: x * rgrad.expect(lambda y: y, dist.Normal(x, 1.0), key, 3)
    for outer in (rgrad.measure_valued, rgrad.generalized):
        draw = jax.grad(lambda t, key, e=outer: rgrad.expect(inner, dist.Normal(t, 1.0), key, 20, e, keyed=True))
        assert_unbiased(lambda key, d=draw: d(2.0, key), 4.0, smallest_bias=0.15)


@pytest.mark.parametrize(
    ("estimator", "q", "error", "match"),
    [
        (rgrad.generalized, lambda t: dist.Gumbel(t, 1.0), NotImplementedError, "no map for Gumbel .* use reparameterized or score_function"),
        (rgrad.rejection, lambda t: dist.Normal(t, 1.0), NotImplementedError, "no sampler for Normal .* use reparameterized, generalized, measure_valued, or score_function"),
        (rgrad.measure_valued, lambda t: dist.Laplace(t, 1.0), NotImplementedError, "no rule for Laplace .* use reparameterized or score_function"),
        (rgrad.measure_valued, lambda t: dist.Gamma(t, 1.0), NotImplementedError, "no rule for the parameter 'concentration'"),
        (partial(rgrad.rejection, augmentation=-1), lambda t: dist.Gamma(t, 1.0), ValueError, "augmentation must be a whole number >= 0, got -1"),
    ],
)  # fmt: skip
def test_what_has_no_rule_says_so(estimator, q, error, match):
    with pytest.raises(error, match=match):
        jax.grad(lambda t: rgrad.expect(lambda x: x, q(t), jax.random.key(0), 4, estimator))(2.0)


@pytest.mark.long
def test_events_written_by_expand():
    """`.expand([2]).to_event(1)` is a vector like any other: the same values as with the parameters written out."""
    for make, estimators in (
        (lambda t, shape: dist.Normal(t * jnp.ones(shape), 1.0), (rgrad.measure_valued, rgrad.generalized)),
        (lambda t, shape: dist.Gamma(t * jnp.ones(shape), 2.0), (rgrad.generalized, rgrad.reparameterized)),
        (lambda t, shape: dist.VonMises(t * jnp.ones(shape), 2.0), (rgrad.reparameterized,)),
    ):
        for e in estimators:
            loss = lambda t, q, e=e: rgrad.expect(lambda x: jnp.sum(jnp.cos(x)), q(t), jax.random.key(0), 4, e)
            both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
            expanded = both(1.5, lambda t, m=make: m(t, ()).expand([2]).to_event(1))
            written = both(1.5, lambda t, m=make: m(t, 2).to_event(1))
            np.testing.assert_allclose(expanded, written, rtol=1e-4)


MIXED = {
    "Gamma": lambda t: dist.Gamma(t, jnp.array([1.0, 2.0])).to_event(1),
    "Gamma, expanded": lambda t: dist.Gamma(t, jnp.array([[1.0], [2.0]])).expand([2, 2]).to_event(2),
    "InverseGamma": lambda t: dist.InverseGamma(t + 6, jnp.array([1.0, 2.0])).to_event(1),
    "Beta": lambda t: dist.Beta(t, jnp.array([1.0, 2.0])).to_event(1),
    "Beta, expanded": lambda t: dist.Beta(t, 1.0).expand([2]).to_event(1),
    "Dirichlet, expanded": lambda t: dist.Dirichlet(t * jnp.array([1.0, 1.5])).expand([2]).to_event(1),
}


@pytest.mark.parametrize("names", [("Gamma",), pytest.param(tuple(MIXED), marks=pytest.mark.long)])
def test_coordinates_with_a_shared_parameter_are_independent(names):
    """E[x_0 x_last] is the product of two means, and its derivative follows; at t = 2.

    Shared noise would add the covariance, from 0.05 (Beta) to 1 (Gamma). Catches a hundredth of the standard
    deviations, which are 0.2 to 5.
    """

    def estimate(t, key):
        f = lambda x: jnp.ravel(x)[0] * jnp.ravel(x)[-1]
        of = lambda make, e: rgrad.expect(f, make(t), key, 8, e)
        return {name: [of(MIXED[name], e) for e in (rgrad.generalized, rgrad.rejection)] for name in names}

    def truth(t):
        of = lambda q: jnp.ravel(q.mean)[0] * jnp.ravel(q.mean)[-1]
        return {name: [of(MIXED[name](t))] * 2 for name in names}

    both = lambda of: jax.jvp(of, (2.0,), (1.0,))
    draw = lambda key: both(lambda t: estimate(t, key))
    assert_unbiased(
        draw,
        both(truth),
        smallest_bias=0.15 if names == ("Gamma",) else 0.03,
        replicates=10_000 if names == ("Gamma",) else 100_000,
    )


def test_noise_has_the_shape_of_the_event():
    """The noise drawn by `generalized` and `rejection`, whatever the shapes of the parameters."""
    for name, make in MIXED.items():
        for q in (make(2.0), rgrad.jax_random(make(2.0))):
            source = by_moments(q).source
            assert jax.eval_shape(lambda key, s=source: s.sample(key, (5,)), jax.random.key(0)).shape == (
                5,
                *q.event_shape,
            ), name
            shape, rate, finish = as_gammas(q)
            assert shape.shape == rate.shape, name
            assert jax.eval_shape(finish, shape).shape == q.event_shape, name


@pytest.mark.long
def test_what_32_bits_cannot_hold_is_nan_or_right():
    """Small and large values use logarithms. A sampler outside its range, and a map that is not invertible, give nan."""
    gradient = lambda q, e, f: jax.grad(lambda t: rgrad.expect(f, q(t), jax.random.key(0), 2000, e))(1.0)
    bounded = lambda z: 1 / (1 + z)
    assert np.isfinite(gradient(lambda t: dist.Gamma(0.01 * t, 1.0), rgrad.score_function, bounded))
    assert np.isfinite(gradient(lambda t: dist.Beta(0.1 * t, 0.2), rgrad.rejection, bounded))
    assert np.isfinite(gradient(lambda t: dist.Beta(0.01 * t, 0.02), rgrad.rejection, bounded))
    assert np.isfinite(gradient(lambda t: dist.InverseGamma(0.1 * t, 1.0), rgrad.generalized, bounded))
    assert np.isnan(gradient(lambda t: dist.Gamma(0.8 * t, 1.0), partial(rgrad.rejection, augmentation=0), bounded))
    assert np.isfinite(
        gradient(lambda t: dist.Gamma(t * jnp.array([2.0, 3.0]), 1.0).to_event(1), rgrad.rejection, jnp.sum)
    )
    broken = partial(rgrad.generalized, transform=(lambda e: 2 * e, lambda z: z))
    assert np.isnan(gradient(lambda t: dist.Normal(t, 1.0), broken, bounded))


def test_measure_valued_raises_at_second_order():
    loss = lambda t: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), jax.random.key(0), 4, rgrad.measure_valued)
    with pytest.raises(NotImplementedError, match=r"measure_valued: .* first order only"):
        jax.hessian(loss)(2.0)


def elbo_term(s, key, p_scale, landing):
    q = dist.Normal(0.0, s)
    entropy = rgrad.detach(q) if landing else q
    return rgrad.expect(lambda x: dist.Normal(0.0, p_scale).log_prob(x) - entropy.log_prob(x), q, key, 1)


def test_sticking_the_landing():
    """Its gradient is 0 at q = p, sample by sample. With the score it is not."""
    keys = jax.random.split(jax.random.key(0), 100)
    gradients = lambda landing: jax.vmap(jax.grad(lambda s, k: elbo_term(s, k, 1.5, landing)), (None, 0))(1.5, keys)
    assert np.abs(gradients(True)).max() < 1e-6
    assert np.abs(gradients(False)).max() > 0.1


def test_sticking_the_landing_may_be_worse():
    """Variances 2 (s - 1/s)^2 and 2 s^2, p = N(0, 1): at s = 1/2, 4.5 and 0.5. Within intervals at level 1 - 1e-7."""
    for landing, variance in ((True, 2 * (0.5 - 2) ** 2), (False, 2 * 0.5**2)):
        draw = lambda key, landing=landing: jax.grad(lambda s: elbo_term(s, key, 1.0, landing))(0.5)
        low, high = rgrad.measure(draw, jax.random.key(0), 400_000).variance_interval(1 - 1e-7)
        assert low <= variance <= high


def test_detach_keeps_values_and_stops_gradients():
    for build in (lambda t: dist.Gamma(t, 2.0), lambda t: dist.Normal(t * jnp.ones(2), 1.0).to_event(1)):
        value = lambda t, b=build: jnp.sum(rgrad.detach(b(t)).log_prob(jnp.ones(b(t).event_shape)))
        assert value(2.0) == jnp.sum(build(2.0).log_prob(jnp.ones(build(2.0).event_shape)))
        assert jax.grad(value)(2.0) == 0.0
    with pytest.raises(TypeError, match="detach: q must be a pytree, got object"):
        rgrad.detach(object())


def lower(t):
    return jnp.array([[1.0, 0.0], [0.0, 1.0]]) + t * jnp.array([[0.0, 0.0], [1.0, 0.0]])


def test_generalized_by_a_map_that_is_not_elementwise():
    """z = L(t) eps, whose noise does not depend on t: the gradient of every call is the pathwise one, up to rounding.

    (With the sums of the rows of the Jacobian instead of its diagonal it would be off by 0.3 on average.)
    """
    f = lambda x: x[0] * x[1] + x[1] ** 2
    maps = lambda t: (lambda e: e @ lower(t).T, lambda z: solve_triangular(lower(t), z.T, lower=True).T)
    q = lambda t: dist.MultivariateNormal(jnp.zeros(2), scale_tril=lower(t))
    z = rgrad.distributions.draws.draw(q(0.7), KEY, 6, "test")

    def by_path(t):
        return jax.vmap(f)(lax.stop_gradient(solve_triangular(lower(0.7), z.T, lower=True).T) @ lower(t).T).mean()

    of = lambda t: rgrad.generalized(f, q(t), KEY, 6, transform=maps(t)).mean()
    for found, expected in zip(jax.jit(jax.value_and_grad(of))(0.7), jax.value_and_grad(by_path)(0.7), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_generalized_by_a_map_that_mixes_samples_is_nan():
    maps = (lambda e: e - 0.5 * e.mean(0), lambda z: z + z.mean(0))
    terms = jax.jit(lambda t: rgrad.generalized(lambda x: x**2, dist.Normal(t, 1.0), KEY, 6, transform=maps))
    assert np.isnan(jax.grad(lambda t: terms(t).sum())(1.0))


def test_maps_of_many_coordinates():
    """More coordinates than a full Jacobian allows: elementwise maps work, others give nan."""
    from rgrad.tracing.jacobian import of_any_map

    eps = jax.random.normal(KEY, (3, 70))
    rotated = jnp.eye(70)[::-1] * 2.0
    for forward, expected in (
        (lambda e: 2 * e, 70 * np.log(2.0)),
        (lambda e: e @ rotated, np.nan),
        (lambda e: e @ (2 * jnp.eye(70)), 70 * np.log(2.0)),
    ):
        np.testing.assert_allclose(of_any_map(forward, eps)[1], expected, rtol=1e-5)
