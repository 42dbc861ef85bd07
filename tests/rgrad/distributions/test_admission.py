"""A `q` that is not the normalised density of its own samples is refused, gives nan, or is given one meaning."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from scipy.stats import cauchy, laplace, logistic, norm, truncnorm

import rgrad
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.truncated import sharpened
from tests.calibration import assert_unbiased

KEY = jax.random.key(0)
NUMPYRO = tuple(int(part) for part in numpyro.__version__.split(".")[:2])
FULL = jnp.array([[1.0, 0.5], [0.3, 1.2]])
MASK = jnp.array([True, False, True])
leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


class Ones(dist.Distribution):
    """Integer samples, in a class without `arg_constraints`: NumPyro's default for has_rsample is then True."""

    support = dist.constraints.boolean

    def __init__(self, p):
        self.p = p
        super().__init__((), ())

    def sample(self, key, sample_shape=()):
        return jax.random.bernoulli(key, self.p, sample_shape).astype(int)

    def log_prob(self, value):
        return jnp.where(value == 1, jnp.log(self.p), jnp.log1p(-self.p))


def vmapped(make):
    return jax.vmap(make)(jnp.array([0.0, 1.0, 2.0]))


def power(base, *before_and_exponent):
    *before, exponent = before_and_exponent
    return dist.TransformedDistribution(base, [*before, dist.transforms.PowerTransform(exponent)])


REFUSED = {
    "mask of False": (lambda: dist.Bernoulli(0.3).mask(False), "is masked"),
    "mask within an event": (lambda: dist.Normal(jnp.zeros(3), 1.0).mask(MASK).to_event(1), "is masked"),
    "mask within a mixture": (
        lambda: dist.MixtureGeneral(dist.Categorical(probs=jnp.ones(2) / 2), [dist.Normal(), dist.Normal().mask(False)]),
        "is masked",
    ),
    "masked base of a transform": (
        lambda: dist.TransformedDistribution(dist.Normal().mask(False), dist.transforms.ExpTransform()),
        "is masked",
    ),
    "antithetic": (lambda: rgrad.antithetic(dist.Normal().mask(False)), "is masked"),
    "censored": (lambda: dist.RightCensoredDistribution(dist.Exponential(1.0), jnp.array(1)), "likelihood of an observation"),
    "a factor": (lambda: dist.Unit(jnp.asarray(1.0)), "Unit is not a normalised density"),
    "improper": (lambda: dist.ImproperUniform(dist.constraints.real, (), ()), "ImproperUniform is not a normalised"),
    "an atom with a density": (lambda: dist.Delta(0.0, log_density=1.0), "not a probability"),
    "two points with one image": (
        lambda: dist.TransformedDistribution(dist.FoldedDistribution(dist.Normal()), dist.transforms.AffineTransform(1.0, 2.0)),
        "goes through AbsTransform",
    ),
    "a square of a normal": (lambda: power(dist.Normal(), 2.0), "PowerTransform, which is for positive numbers, but gets all real"),
    "a square of an interval": (lambda: power(dist.Uniform(-1.0, 1.0), 2.0), "gets numbers from -1 on"),
    "a square after two transforms": (
        lambda: power(dist.LogNormal(), dist.transforms.ExpTransform().inv, dist.transforms.AffineTransform(1.0, 2.0), 2.0),
        "gets all real numbers",
    ),
    "a full matrix": (lambda: dist.MultivariateNormal(jnp.zeros(2), scale_tril=FULL, validate_args=False), "scale_tril of MultivariateNormal is not lower"),
    "a transform by a full matrix": (
        lambda: dist.TransformedDistribution(
            dist.Normal(jnp.zeros(2), 1.0).to_event(1), dist.transforms.LowerCholeskyAffine(jnp.zeros(2), FULL)
        ),
        "scale_tril of TransformedDistribution is not lower",
    ),
    "vmapped": (lambda: vmapped(lambda m: dist.Bernoulli(logits=m)), r"logits has shape \(3,\)"),
    "vmapped vector": (lambda: vmapped(lambda m: dist.Normal(m * jnp.ones(2), 1.0).to_event(1)), r"loc has shape \(3, 2\)"),
    "vmapped matrix": (
        lambda: vmapped(lambda m: dist.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.exp(m) * jnp.eye(2))),
        r"has shape \(3, 2, 2\)|has shape \(3, 2\)",
    ),
    "vmapped transform": (
        lambda: vmapped(lambda m: dist.TransformedDistribution(dist.Normal(), dist.transforms.AffineTransform(m, 1.0))),
        "AffineTransform has shape",
    ),
    "vmapped categorical": (lambda: vmapped(lambda m: dist.Categorical(logits=m * jnp.ones(4))), r"logits has shape \(3, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    make, match = REFUSED[name]
    with pytest.raises(ValueError, match=match):
        rgrad.expect(jnp.sum, make(), KEY, 3, rgrad.score_function)
    if "vmapped" in name:
        with pytest.raises(ValueError, match="build q inside the mapped function"):
            rgrad.enumerated(jnp.sum, make(), KEY, 3)


def test_a_mask_of_true_is_accepted():
    masked = dist.Normal(jnp.zeros(3), 1.0).mask(jnp.ones(3, bool)).to_event(1)
    plain = rgrad.jax_random(dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    assert rgrad.expect(jnp.sum, masked, KEY, 3) == rgrad.expect(jnp.sum, plain, KEY, 3)


def test_powers_of_positive_numbers_are_accepted():
    for q in (power(dist.Exponential(1.0), 0.5), power(dist.LogNormal(), dist.transforms.AffineTransform(1.0, 2.0), 2.0),
              power(dist.Normal(), dist.transforms.ExpTransform(), -1.0), dist.Weibull(1.0, 2.0)):  # fmt: skip
        rgrad.distributions.draws.check_draw(q, 2, "test")


def test_every_kind_of_shape_is_accepted():
    """Shapes that NumPyro broadcasts, and parameters that are declared as vectors but are matrices."""
    two, eye = jnp.ones(2), jnp.eye(2)
    for q in (
        dist.Gamma(1.0, two).to_event(1), dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2), dist.MatrixNormal(eye, eye, eye),
        dist.MultivariateNormal(0.0, scale_tril=eye).expand([3]).to_event(1), dist.Delta(two, event_dim=1), dist.LKJ(3, 1.0),
        dist.LowRankMultivariateNormal(two, jnp.ones((2, 1)), two), dist.Wishart(3.0, scale_matrix=eye), dist.LogNormal(two, 1.0).to_event(1),
        *([] if NUMPYRO < (0, 22) else [  # NumPyro 0.21 refuses components that are Independent
            dist.MixtureSameFamily(dist.Categorical(logits=two), dist.Normal(jnp.ones((2, 3)), 1.0).to_event(1))
        ]),
        dist.RelaxedBernoulli(1.0, logits=two).to_event(1), dist.Multinomial(3, two / 2), dist.ZeroSumNormal(1.0, (3,)),
        dist.SineSkewed(dist.VonMises(two, 1.0).to_event(1), two / 3), dist.TruncatedNormal(0.0, two, low=0.0).to_event(1),
    ):  # fmt: skip
        rgrad.distributions.draws.check_draw(q, 2, "test")


def test_integers_have_no_path():
    loss = lambda p, e: rgrad.expect(lambda x: x * 1.0, Ones(p), KEY, 4, e)
    with pytest.raises(TypeError, match=r"its samples are int32 and have no derivative.*has_rsample = False"):
        jax.grad(loss)(0.3, rgrad.reparameterized)
    assert np.isfinite(jax.grad(loss)(0.3, rgrad.score_function))


class Shifted(Ones):
    """Normals. Half of them are outside the support that the class states."""

    support = dist.constraints.positive

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, sample_shape) + self.p


class Outside(dist.LeftTruncatedDistribution):
    """Samples that ignore the truncation. This happens in a tail, where the truncation rounds to nothing."""

    def sample(self, key, sample_shape=()):
        return self.base_dist.loc + jax.random.normal(key, sample_shape)


def test_samples_outside_the_support_are_nan_in_the_gradient_too():
    q = lambda t: Outside(dist.StudentT(3.0, t), 0.0)
    assert np.isnan(jax.grad(lambda t: rgrad.expect(lambda x: x, q(t), KEY, 100))(0.0))


def test_samples_outside_the_support_are_nan():
    x = rgrad.distributions.draws.draw(Shifted(0.0), KEY, 100, "test")
    assert 0 < np.isnan(x).sum() < 100
    np.testing.assert_array_equal(np.isnan(x), ~(Shifted(0.0).sample(KEY, (100,)) > -1e-4))


W = jnp.array([1.0, 2.0, 5.0])


class RawProbs:
    """E[W[x]] = W @ p / sum(p): d/dp = (W - E) / sum(p). The probs sum to 2, so the division matters."""

    params = {"p": jnp.array([0.5, 0.9, 0.6])}  # noqa: RUF012
    distribution = staticmethod(lambda params: dist.Categorical(probs=params["p"], validate_args=False))
    objective = staticmethod(lambda params, x: W[x])


@pytest.mark.parametrize("estimator", [rgrad.enumerated, rgrad.score_function, leave_one_out])
def test_probabilities_that_do_not_sum_to_one(estimator):
    """Value and gradient are those of probs / sum(probs), to 1e-10 by enumeration. Without the division it gives W."""
    p = np.asarray(RawProbs.params["p"], float)
    mean = np.asarray(W, float) @ p / p.sum()
    exact = rgrad.exact_moments(RawProbs, estimator).mean["p"]
    np.testing.assert_allclose(exact, (np.asarray(W, float) - mean) / p.sum(), atol=1e-6)
    if estimator is rgrad.enumerated:
        value = rgrad.expect(lambda x: W[x], RawProbs.distribution(RawProbs.params), KEY, 2, estimator)
        assert value == pytest.approx(mean, rel=1e-6)


def test_probabilities_within_a_mixture_and_a_multinomial(x64):
    """The density is that of probs / sum(probs). Its score has mean 0, to 1e-12."""
    p = jnp.array([0.5, 0.9, 0.6])
    mixture = lambda p: dist.MixtureSameFamily(
        dist.Categorical(probs=p, validate_args=False), dist.Normal(jnp.arange(3.0), 1.0)
    )
    np.testing.assert_allclose(log_prob(mixture(p), 0.3), mixture(p / 2).log_prob(0.3), atol=1e-12)
    counts = jnp.array([1, 1, 0])
    of_counts = lambda p: log_prob(dist.Multinomial(2, p, validate_args=False), counts)
    np.testing.assert_allclose(of_counts(p), dist.Multinomial(2, p / 2).log_prob(counts), atol=1e-12)
    np.testing.assert_allclose(jax.grad(of_counts)(p) @ p, 0.0, atol=1e-12)


TAILS = [(-10.0, 1.0, 0.0, 50.0), (-14.0, 1.0, 0.0, np.inf), (-30.0, 1.0, 0.0, 50.0), (2.0, 0.01, 0.0, 1.0), (0.3, 1.0, -1.0, 2.0),
         (30.0, 1.0, -np.inf, 0.0), (-6.0, 1.0, 0.0, 50.0), (0.0, 1.0, 5.0, 5.5)]  # fmt: skip


@pytest.mark.parametrize(
    "family",
    [
        norm,
        pytest.param(laplace, marks=pytest.mark.long),
        *(pytest.param(f, marks=pytest.mark.long) for f in (logistic, cauchy)),
    ],
)
def test_truncation_in_the_tail(family):
    """Samples, density and both derivatives in 32 bits agree with SciPy in 64 bits, at 9 quantiles of 8 intervals."""
    base = {norm: dist.Normal, laplace: dist.Laplace, logistic: dist.Logistic, cauchy: dist.Cauchy}[family]
    u = np.linspace(0.1, 0.9, 9)
    make = lambda loc, scale, low, high: sharpened(dist.TruncatedDistribution(base(loc, scale), low, high))
    # One program for all intervals: a missing bound is infinite.
    quantiles = jax.jit(
        jax.vmap(jax.value_and_grad(lambda loc, u, *rest: make(loc, *rest).icdf(u)), (None, 0, None, None, None))
    )
    densities = jax.jit(
        jax.vmap(jax.value_and_grad(lambda loc, x, *rest: log_prob(make(loc, *rest), x)), (None, 0, None, None, None))
    )
    for loc, scale, low, high in TAILS:

        def truth(loc):
            """Return quantiles and log densities, reflected to the left tail, where probabilities keep all digits."""
            side = -1 if low > loc else 1
            a, b = sorted((side * (low - loc) / scale, side * (high - loc) / scale))
            at = lambda u: loc + scale * side * inverse(a, b, u if side == 1 else 1 - u)
            total = family.logcdf(b) + np.log1p(-np.exp(family.logcdf(a) - family.logcdf(b)))
            return at(u), lambda x: family.logpdf((x - loc) / scale) - np.log(scale) - total

        def inverse(a, b, u):
            """Invert log F by bisection."""
            target = np.logaddexp(np.log1p(-u) + family.logcdf(a), np.log(u) + family.logcdf(b))
            left, right = np.full(9, max(a, -1e4)), np.full(9, min(b, 1e4))
            for _ in range(80):
                middle = (left + right) / 2
                below = family.logcdf(middle) < target
                left, right = np.where(below, middle, left), np.where(below, right, middle)
            return left

        x, density = truth(loc)
        spread = x[-1] - x[0]
        d = 1e-4 * spread
        (more, density_more), (less, density_less) = truth(loc + d), truth(loc - d)
        found, slope = quantiles(loc, jnp.asarray(u, jnp.float32), scale, low, high)
        np.testing.assert_allclose(found, x, atol=1e-4 * spread + 4e-7 * (abs(loc) + abs(x).max()), err_msg=f"{loc}")
        expected = (more - less) / (2 * d)
        np.testing.assert_allclose(slope, expected, atol=2e-3 * abs(expected).max() + 1e-6, err_msg=f"{loc}")
        found, score = densities(loc, jnp.asarray(x, jnp.float32), scale, low, high)
        np.testing.assert_allclose(found, density(x), atol=2e-3, err_msg=f"{loc}")
        expected = (density_more(x) - density_less(x)) / (2 * d)
        np.testing.assert_allclose(
            score, expected, atol=2e-3 * abs(expected).max() + 4e-6 * abs(loc) / scale**2, err_msg=f"{loc}"
        )


def test_truncated_normals_where_numpyro_is_right():
    """The samples agree with NumPyro's up to rounding, in a vector and expanded."""
    for q in (
        dist.TruncatedNormal(0.5, jnp.ones(2), low=0.0).to_event(1),
        dist.TruncatedNormal(0.5, 2.0, low=-1.0, high=1.0).expand([3]).to_event(1),
    ):
        np.testing.assert_allclose(rgrad.distributions.draws.draw(q, KEY, 50, "test"), q.sample(KEY, (50,)), atol=2e-6)


@pytest.mark.long
def test_truncated_normal_in_the_tail_by_estimators():
    """d/dloc E[x] of N(-14, 1) above 0 is 0.004953, by quadrature in 64 bits. Catches a bias of 4e-4."""
    mean = lambda loc: truncnorm.mean(-loc, np.inf, loc)
    truth = (mean(-14 + 1e-3) - mean(-14 - 1e-3)) / 2e-3
    draw = lambda key: jax.grad(
        lambda t: sum(
            rgrad.expect(lambda x: x, dist.TruncatedNormal(t, 1.0, low=0.0), key, 10, e)
            for e in (rgrad.reparameterized, leave_one_out)
        )
    )(-14.0)
    assert_unbiased(draw, 2 * truth, smallest_bias=4e-4, replicates=20_000)


def test_nan_is_explained_where_draws_are_collected():
    """`measure` warns once. A comparison and a fit explain it in one sentence."""
    loss = lambda params, key: rgrad.expect(lambda x: x, Outside(dist.StudentT(3.0, params["t"]), 0.0), key, 10)
    with pytest.warns(UserWarning, match=r"measure: \d+ of 10 draws are nan .* outside of the support"):
        rgrad.measure(lambda key: loss({"t": 0.0}, key), KEY, 10)
    fitted = rgrad.fit(loss, {"t": 0.0}, optax.sgd(0.1), KEY, 3)
    assert "stopped at step 0: not finite; a draw is nan if" in fitted.remark
    compared = rgrad.compare({"wrong": loss}, params={"t": 0.0}, key=KEY, budget=0.05)
    assert "a draw is nan if a sample is outside of the support" in str(compared)
