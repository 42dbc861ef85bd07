"""`rgrad.elbo` and `rgrad.location_scale`: the notes' equations, gradients against closed forms, and refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions.transforms import ExpTransform
from scipy import stats

import rgrad
from rgrad.distributions.entropy import entropy
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
PHIS = {
    "normal": (dist.Normal(0.0, 1.0), stats.norm()),
    "laplace": (dist.Laplace(0.0, 1.0), stats.laplace()),
    "student_t": (dist.StudentT(5.0), stats.t(5)),
}


def general(D, seed=0):
    """An invertible matrix that is neither triangular nor symmetric, with a negative determinant; and a centre."""
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(D, D)) / D**0.5 + 2 * np.eye(D)[::-1]
    C[0] *= -np.sign(np.linalg.det(C))
    assert np.linalg.det(C) < 0
    assert np.linalg.cond(C) < 1e3
    return rng.normal(size=D), C


@pytest.mark.parametrize("name", PHIS)
def test_the_notes_equations_at_64(name, x64):
    """(4), (5), (6a), (6h) and (7c), each side computed separately, for a general C and a lower triangle.

    To 1e-9 relative in 64 bits, not only to 1e-5.
    """
    phi, law = PHIS[name]
    D, n = 64, 20
    A = np.random.default_rng(1).normal(size=(D, D)) / D
    log_g = lambda z: -jnp.log(jnp.cosh(A @ z)).sum() - jnp.sum(z**2) / 4

    @jax.jit
    def library(mu, C, points):
        q = rgrad.location_scale(mu, C, phi)
        elbo = lambda mu, C, e: rgrad.elbo(log_g, rgrad.location_scale(mu, C, phi), KEY, n, entropy=e)
        exact, sampled = (jax.value_and_grad(partial(elbo, e=e), (0, 1))(mu, C) for e in ("exact", "sampled"))
        z = q.sample(KEY, (n,))
        values, s = jax.vmap(jax.value_and_grad(log_g))(z)
        return exact, sampled, entropy(q), jax.vmap(q.log_prob)(points), z, values, s

    mu, C = general(D)
    for scale in (C, np.tril(C, -1) * 0.3 + np.diag(0.5 + np.abs(np.diag(C)))):
        eps = law.rvs(size=(5, D), random_state=0)
        points, log_det = mu + eps @ scale.T, np.linalg.slogdet(scale)[1]
        exact, sampled, h, log_q, z, values, s = jax.tree.map(np.asarray, library(mu, scale, points))
        np.testing.assert_allclose(np.exp(log_q - law.logpdf(eps).sum(1) + log_det), 1, rtol=1e-9)  # (4) and (5)
        if name == "normal":
            np.testing.assert_allclose(log_q, stats.multivariate_normal(mu, scale @ scale.T).logpdf(points), rtol=1e-9)
        np.testing.assert_allclose(h, D * law.entropy() + log_det, rtol=1e-9)
        noise = np.linalg.solve(scale, (z - mu).T).T
        np.testing.assert_allclose(exact[0], values.mean() + h, rtol=1e-9)  # (6h)
        np.testing.assert_allclose(sampled[0], (values - law.logpdf(noise).sum(1) + log_det).mean(), rtol=1e-9)  # (6a)
        hand = s.mean(0), s.T @ noise / n + np.linalg.inv(scale).T  # (7c)
        for gradient in (exact[1], sampled[1]):  # exactly the same
            for mine, by_hand in zip(gradient, hand, strict=True):
                assert np.linalg.norm(mine - by_hand) < 1e-9 * np.linalg.norm(by_hand)


M, S = np.array([0.5, -0.3]), np.array([[0.8, 0.0], [0.4, 0.6]])  # the target N(m, S S')
AT = {"mu": jnp.array([0.2, 0.0]), "C": jnp.array([[0.3, 0.7], [-0.5, 0.4]])}


def log_g(z):
    return -jnp.sum((np.linalg.inv(S) @ (z - M)) ** 2) / 2


def closed(p, variance=1.0):
    """The ELBO of mu + C eps, up to the entropy of phi."""
    W = np.linalg.inv(S)
    return (
        -(jnp.sum((W @ (p["mu"] - M)) ** 2) + variance * jnp.sum((W @ p["C"]) ** 2)) / 2 + jnp.linalg.slogdet(p["C"])[1]
    )


leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


def test_the_gradient_is_unbiased():
    """In six ways, for a general C. False failures: 1e-6 for all 36 numbers together.

    Catches a bias of 0.18 in any of them, where the gradients are up to 2.1.
    """
    reparameterized, score_function = rgrad.reparameterized, rgrad.score_function
    ways = [(reparameterized, "sampled"), (reparameterized, "detached"), (score_function, "sampled"),
            (score_function, "exact"), (score_function, "detached"), (leave_one_out, "detached")]  # fmt: skip

    def draw(key):
        q = lambda p: rgrad.location_scale(p["mu"], p["C"])
        return [jax.grad(lambda p: rgrad.elbo(log_g, q(p), key, 16, *way))(AT) for way in ways]

    assert_unbiased(draw, [jax.grad(closed)(AT)] * len(ways), smallest_bias=0.18, replicates=20_000)


@pytest.mark.long
def test_the_value_is_unbiased_for_a_gamma():
    """-KL(Gamma(2, 1.5), Gamma(3, 1)) and its gradient in closed form, with exact and detached entropies.

    Their gradients differ here. False failures: 1e-6 together. Catches 0.03.
    """
    p = dist.Gamma(3.0, 1.0)
    truth = lambda a: -dist.kl_divergence(dist.Gamma(a[0], a[1]), p)
    elbo = lambda a, key, *way: rgrad.elbo(p.log_prob, dist.Gamma(a[0], a[1]), key, 8, *way)
    ways = [(rgrad.generalized, e) for e in ("exact", "detached")]
    at = jnp.array([2.0, 1.5])
    draw = lambda key: [jax.value_and_grad(elbo)(at, key, *way) for way in ways]
    assert_unbiased(draw, [jax.value_and_grad(truth)(at)] * 2, smallest_bias=0.03, replicates=20_000)


def test_sticking_the_landing_has_no_noise_at_the_optimum():
    params = {"mu": jnp.asarray(M), "C": jnp.asarray(S)}

    def gradient(key, e):
        q = lambda p: dist.MultivariateNormal(p["mu"], scale_tril=p["C"])
        return jax.grad(lambda p: rgrad.elbo(log_g, q(p), key, 4, entropy=e))(params)

    both = jax.jit(lambda key: [gradient(key, e) for e in ("detached", "exact")])(KEY)
    assert all(np.abs(g).max() < 1e-5 for g in jax.tree.leaves(both[0]))
    assert np.abs(both[1]["mu"]).max() > 0.1


FAMILIES = {
    "Normal": (dist.Normal(1.0, 2.0), stats.norm(1, 2)),
    "Laplace": (dist.Laplace(1.0, 2.0), stats.laplace(1, 2)),
    "StudentT": (dist.StudentT(5.0, 1.0, 2.0), stats.t(5, 1, 2)),
    "Logistic": (dist.Logistic(1.0, 2.0), stats.logistic(1, 2)),
    "Gamma": (dist.Gamma(2.5, 3.0), stats.gamma(2.5, scale=1 / 3)),
    "Beta": (dist.Beta(2.0, 3.5), stats.beta(2, 3.5)),
    "LogNormal": (dist.LogNormal(0.3, 0.7), stats.lognorm(0.7, scale=np.exp(0.3))),
    "Dirichlet": (dist.Dirichlet(jnp.array([1.0, 2.0, 3.5])), stats.dirichlet([1, 2, 3.5])),
    "Bernoulli": (dist.Bernoulli(logits=0.7), stats.bernoulli(1 / (1 + np.exp(-0.7)))),
    "MultivariateNormal": (dist.MultivariateNormal(jnp.zeros(2), scale_tril=S), stats.multivariate_normal(np.zeros(2), S @ S.T)),
    "Independent": (dist.Normal(jnp.zeros(3), 2.0).to_event(1), stats.multivariate_normal(np.zeros(3), 4 * np.eye(3))),
    "Expanded": (dist.Normal(0.0, 2.0).expand([3]).to_event(1), stats.multivariate_normal(np.zeros(3), 4 * np.eye(3))),
    "antithetic": (rgrad.antithetic(dist.Normal(1.0, 2.0)), stats.norm(1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_entropies(name):
    q, law = FAMILIES[name]
    h = entropy(q)
    assert h.shape == ()
    np.testing.assert_allclose(h, law.entropy(), rtol=1e-5)


def test_entropies_of_vectors_count_every_coordinate():
    """Three coordinates, whichever parameter is the vector: the sum of the entropies of each."""
    vector = jnp.array([1.5, 2.0, 3.0])
    families = (
        dist.Normal,
        dist.Laplace,
        dist.Cauchy,
        dist.Logistic,
        dist.LogNormal,
        dist.Gamma,
        dist.InverseGamma,
        dist.Beta,
    )
    shift = dist.transforms.AffineTransform
    makers = [
        *families,
        lambda a, b: dist.TransformedDistribution(dist.Laplace(0.0, b), shift(a, 2.0)),
        lambda a, b: rgrad.jax_random(dist.Laplace(a, b).to_event(1)),
    ]  # fmt: skip

    @jax.jit
    def both():
        of = lambda q: entropy(q.to_event(1)) if isinstance(q, dist.Distribution) else entropy(q)
        each = lambda make: sum(entropy(make(jnp.stack([v]), jnp.full(1, 2.5))).sum() for v in vector)
        mirrored = lambda make: sum(entropy(make(jnp.full(1, 2.5), jnp.stack([v]))).sum() for v in vector)
        return [
            (of(make(vector, 2.5)), each(make), of(make(2.5 * jnp.ones(1), vector)), mirrored(make)) for make in makers
        ]

    for at_once, added, other_at_once, other_added in both():
        np.testing.assert_allclose([at_once, other_at_once], [added, other_added], rtol=1e-5)
    q = dist.MultivariateNormal(jnp.zeros((3, 2)), scale_tril=S).to_event(1)
    np.testing.assert_allclose(entropy(q), 3 * stats.multivariate_normal(np.zeros(2), S @ S.T).entropy(), rtol=1e-5)
    loss = lambda b: rgrad.elbo(lambda z: 0.0, dist.Laplace(jnp.zeros(3), b).to_event(1), KEY, 1, entropy="exact")
    np.testing.assert_allclose(jax.value_and_grad(loss)(1.7), (3 * (1 + np.log(3.4)), 3 / 1.7), rtol=1e-5)


def test_entropies_of_images(x64):
    """Affine images, against quadrature of -q log q. A linear image of vectors, with its derivative, log |det C|."""
    image = dist.TransformedDistribution(dist.StudentT(5.0), dist.transforms.AffineTransform(1.0, -2.0))
    x = np.linspace(-2000, 2000, 2_000_001)
    log_q = np.asarray(image.log_prob(x))
    np.testing.assert_allclose(entropy(image), np.trapezoid(-np.exp(log_q) * log_q, x), rtol=1e-6)
    _, C = general(3)
    of = lambda C: entropy(rgrad.location_scale(jnp.zeros(3), C, dist.Laplace(0.0, 1.0)))
    np.testing.assert_allclose(jax.grad(of)(jnp.asarray(C)), np.linalg.inv(C).T, rtol=1e-9)


def test_the_entropy_of_a_bernoulli_is_differentiable_everywhere():
    slopes = jax.vmap(jax.grad(lambda logit: entropy(dist.Bernoulli(logits=logit))))(
        jnp.array([-200.0, 0.0, 1.0, 200.0])
    )
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(slopes, [0, 0, -p * (1 - p), 0], atol=1e-6)


def hessian(e, estimator=rgrad.reparameterized):
    def value(mu, key):
        return rgrad.elbo(lambda z: -((z - 1.0) ** 2) - 0.1 * z**4, dist.Normal(mu, 0.5), key, 8, estimator, e)

    return jax.hessian(value)


def test_second_derivatives():
    """d2/dmu2 of E[-(z - 1)^2 - z^4/10] at mu = 0.7, s = 0.5 is -2 - 1.2 (mu^2 + s^2) = -2.888.

    False failures: 1e-6 for all. Catches 0.25. With a detached entropy it raises, also under jit.
    """
    ways = [("sampled", rgrad.reparameterized), ("exact", rgrad.reparameterized), ("sampled", leave_one_out)]
    draw = lambda key: [hessian(*way)(0.7, key) for way in ways]
    assert_unbiased(draw, [-2 - 1.2 * (0.49 + 0.25)] * 3, smallest_bias=0.25, replicates=20_000)
    for estimator in (rgrad.reparameterized, rgrad.score_function):
        with pytest.raises(NotImplementedError, match="first order only"):
            jax.jit(hessian("detached", estimator))(0.7, KEY)


def test_jit_vmap_and_scan():
    ways = ("exact", "detached")

    def gradients(key):
        q = lambda p: rgrad.location_scale(p["mu"], p["C"])
        return [jax.grad(lambda p: rgrad.elbo(log_g, q(p), key, 3, entropy=e))(AT) for e in ways]

    keys = jax.random.split(KEY, 2)
    one, mapped = jax.jit(gradients), jax.jit(jax.vmap(gradients))(keys)
    scanned = jax.jit(lambda keys: jax.lax.scan(lambda c, key: (c, gradients(key)), 0, keys)[1])(keys)
    for i in range(2):
        for alone, *others in zip(*map(jax.tree.leaves, (one(keys[i]), mapped, scanned)), strict=True):
            for other in others:
                np.testing.assert_allclose(alone, other[i], rtol=2e-4, atol=1e-5)


def test_a_fit_stops_when_log_g_becomes_nan_and_keeps_the_last_good_parameters():
    def log_g(z):  # the density is 0 to the right of 1
        return jnp.where(z.sum() < 1.0, 10 * z.sum(), jnp.nan)

    def loss(params, key):
        q = rgrad.location_scale(params["mu"], jnp.diag(jnp.exp(params["log_scale"])))
        return -rgrad.elbo(log_g, q, key, 4)

    start = {"mu": jnp.full(2, -1.0), "log_scale": jnp.full(2, -6.0)}
    fitted = rgrad.fit(loss, start, optax.sgd(0.01), KEY, 50)
    stop = int(fitted.stopped_at)
    assert 0 < stop < 50
    assert bool(fitted.diverged)
    kept = jax.tree.map(lambda x: x[stop - 1], fitted.trace.params)
    for a, b in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(np.isfinite(fitted.params["mu"]))
    assert 0.7 < fitted.params["mu"].sum() < 1.0  # the last place at which log g was finite


def test_a_singular_c_within_a_fit_is_refused():
    def loss(params, key):
        return -rgrad.elbo(log_g, rgrad.location_scale(jnp.asarray(M), params * jnp.eye(2)), key, 4) + 1e3 * params

    fitted = rgrad.fit(loss, 0.0, optax.sgd(1e-3), KEY, 2)
    assert (int(fitted.stopped_at), float(fitted.params)) == (0, 0.0)


Q = dist.Normal(0.0, 1.0)
BAD = {
    "entropy": (lambda: rgrad.elbo(log_g, Q, KEY, entropy="exakt"), ValueError, "elbo: entropy must be one of 'sampled', 'exact', 'detached', got 'exakt'"),
    "estimator": (lambda: rgrad.elbo(log_g, Q, KEY, 1, 3), TypeError, "elbo: estimator must be callable, or a name .* got int 3"),
    "n": (lambda: rgrad.elbo(log_g, Q, KEY, 0), ValueError, "ask for at least 1"),
    "batch": (lambda: rgrad.elbo(log_g, dist.Normal(jnp.zeros(2), 1.0), KEY), ValueError, r"\.to_event\(1\)"),
    "vector": (lambda: rgrad.elbo(lambda z: jnp.stack([z, z]), Q, KEY), ValueError, "f must return a scalar"),
    "no entropy": (lambda: rgrad.elbo(lambda z: z, dist.TransformedDistribution(Q, ExpTransform()), KEY, entropy="exact"),
                   NotImplementedError, 'no exact entropy is known for ExpTransform of Normal; use entropy="sampled"'),
    "diagonal": (lambda: rgrad.elbo(log_g, dist.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.array([[1.0, 0], [1, 0]]), validate_args=False), KEY),
                 ValueError, "the Cholesky factor has 0 on its diagonal, which must be positive"),
    "affine": (lambda: rgrad.elbo(log_g, dist.TransformedDistribution(
                   dist.Normal(0.0, 1.0).expand([2]).to_event(1), dist.transforms.LowerCholeskyAffine(jnp.zeros(2), -jnp.eye(2))), KEY),
               ValueError, "the Cholesky factor has -1 on its diagonal"),
    "singular": (lambda: rgrad.location_scale(jnp.zeros(2), jnp.ones((2, 2))), ValueError, "scale is singular .* give an invertible matrix"),
    "nearly": (lambda: rgrad.location_scale(jnp.zeros(2), jnp.diag(jnp.array([1.0, 1e-8]))), ValueError, "is singular"),
    "nan": (lambda: rgrad.location_scale(jnp.zeros(2), jnp.full((2, 2), jnp.nan)), ValueError, "nan or infinite"),
    "shapes": (lambda: rgrad.location_scale(jnp.zeros(2), jnp.ones(2)), ValueError, r"they must be \(D,\) and \(D, D\)"),
    "phi": (lambda: rgrad.location_scale(jnp.zeros(2), jnp.eye(2), dist.Gamma(1.0, 1.0)), ValueError, "not on the whole real line"),
    "phi shape": (lambda: rgrad.location_scale(jnp.zeros(2), jnp.eye(2), dist.Normal(jnp.zeros(2), 1.0)), ValueError, r"has shape \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
