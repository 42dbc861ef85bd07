"""Distributions of TFP, distrax, distreqx and FlowJAX, and `rgrad.distribution`, wherever a `q` is accepted."""

import re
import warnings
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
import scipy.stats
from numpyro.distributions.distribution import Distribution as OfNumPyro

import rgrad
from rgrad.distributions.adapted import Adapted
from rgrad.distributions.implicit import has_rsample
from rgrad.distributions.others import as_distribution
from rgrad.distributions.wrappers import SeenAs, elementary
from tests.rgrad.distributions.families import FAST_LIBRARIES, LIBRARIES, drawn_dtype, families

KEY = jax.random.key(0)
N = 4
square = lambda x: jnp.sum(jnp.asarray(x, float) ** 2)
# TFP asks for 64 bits, and draws in 32.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]


def gradient(make, estimator, t=0.7, f=square):
    return jax.jit(jax.value_and_grad(lambda t: rgrad.expect(f, make(t), KEY, N, estimator)))(t)


@pytest.mark.parametrize("library", FAST_LIBRARIES)
def test_a_twin_has_the_density_of_the_original(library):
    """The parameters differ from one another, so that one in the wrong place or turned around is found."""
    assert len(families(library)) >= 12
    for name, (theirs, ours) in families(library).items():
        q, x = theirs(jnp.asarray(0.7)), a_value(name, ours(0.7))
        twin = as_distribution(q, "test")
        bare = twin.base if isinstance(twin, SeenAs) else twin
        assert isinstance(bare, OfNumPyro), name
        own = jnp.sum(q.log_prob(x.astype(drawn_dtype(library, name))))
        np.testing.assert_allclose(bare.log_prob(x), own, rtol=2e-5, atol=2e-5, err_msg=name)


def a_value(name, q):
    """A value in the support of q, without drawing it."""
    if q.support.is_discrete or name == "OneHotCategorical":
        return np.array({"Multinomial": [1, 2, 1], "OneHotCategorical": [0, 1, 0]}.get(name, 1))
    into = dist.transforms.biject_to(q.support)
    return np.asarray(
        into(
            0.3
            + 0.2
            * jnp.arange(1.0 + np.prod(into.inverse_shape(q.event_shape)))[1:].reshape(
                into.inverse_shape(q.event_shape)
            )
        )
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_twin_has_the_parameters_of_numpyro(library):
    """The same type, the same parameters, and the same derivatives in them. So every estimator has the same moments."""
    for name, (theirs, ours) in families(library).items():
        types = []

        def of(t, make, types=types):
            q = as_distribution(make(t), "test")
            return parameters(q.base if isinstance(q, SeenAs) else q, types)

        both = [jax.jvp(partial(of, make=make), (0.7,), (1.0,)) for make in (theirs, ours)]
        assert types[: len(types) // 2] == types[len(types) // 2 :], (name, types)
        assert jax.tree.leaves(both[0]), name

        def close(a, b, name=name):
            np.testing.assert_allclose(*np.broadcast_arrays(a, b), rtol=2e-5, atol=1e-6, err_msg=name)

        jax.tree.map(close, *both)


def parameters(q, types):
    """The floats that determine q. Logits of classes are normalised, because distrax and distreqx do so."""
    q = elementary(q)
    types.append(type(q))
    if isinstance(q, dist.MixtureSameFamily):
        return [parameters(part, types) for part in (q.mixing_distribution, q.component_distribution)]
    names = ["loc", "scale_tril"] if isinstance(q, dist.MultivariateNormal) else q.arg_constraints
    given = {name: jnp.asarray(vars(q)[name]) for name in names if vars(q).get(name) is not None}
    if "logits" in given and given["logits"].ndim:
        given["logits"] = jax.nn.log_softmax(given["logits"])
    return {name: value for name, value in given.items() if jnp.issubdtype(value.dtype, jnp.floating)}


@pytest.mark.parametrize("library", LIBRARIES)
def test_f_sees_the_dtype_of_the_library(library):
    """And estimators apply to their distribution if they apply to NumPyro's."""
    for name, (theirs, ours) in families(library).items():
        seen = []
        f = lambda x, seen=seen: (seen.append(x.dtype), square(x))[1]
        bounds = name == "Uniform" and library != "flowjax"
        refused = {"reparameterized": not has_rsample(ours(0.7)), "score_function": bounds}
        for estimator, no in refused.items():
            trace = lambda e=estimator, make=theirs, f=f: jax.eval_shape(lambda t: gradient(make, e, t, f), 0.7)
            if no:
                with pytest.raises(rgrad.NotApplicable, match="use .*score_function" if not bounds else "support"):
                    trace()
            else:
                trace()
        assert seen, name
        assert set(seen) == {drawn_dtype(library, name)}, name
    discrete = [name for name, (_, ours) in families(library).items() if not has_rsample(ours(0.7))]
    assert len(discrete) >= {"tfp": 11, "distrax": 5, "distreqx": 3, "flowjax": 0}[library]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", ["reparameterized", "score_function"])
def test_estimates_are_those_of_numpyro(library, estimator):
    """The same numbers from the same key."""
    for name in (
        "Normal",
        "Gamma",
        *(("Bernoulli",) if estimator == "score_function" and library != "flowjax" else ()),
    ):
        found, expected = (gradient(make, estimator) for make in families(library)[name])
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)


# A few of each kind. The long test has all families.
QUICK = {
    "tfp": ("Poisson", "Multinomial"),
    "distrax": ("Laplace", "Bernoulli"),
    "distreqx": ("Bernoulli", "OneHotCategorical"),
    "flowjax": ("Normal", "LogNormal"),
}
HEAVY = {"Cauchy", "HalfCauchy", "StudentT", "InverseGamma", "Pareto"}  # they need a bounded objective
UNKNOWN = {"TruncatedNormal"}  # exact_moments has no rule for it


@pytest.mark.parametrize("library", FAST_LIBRARIES)
def test_exact_moments_are_those_of_numpyro(library):
    assert same_moments(library, QUICK[library]) == list(QUICK[library])


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("library", LIBRARIES)
def test_exact_moments_of_all_families_are_those_of_numpyro(library):
    names = [name for name in families(library) if name not in UNKNOWN]
    assert len(names) >= 12
    assert same_moments(library, names) == names
    for name in UNKNOWN & set(families(library)):
        theirs, _ = families(library)[name]
        assert rgrad.exact_moments(Problem(theirs), "score_function") is None


def same_moments(library, names):
    """The families whose exact moments are known, for every estimator that applies. They must be those of NumPyro."""
    known = []
    for name in names:
        theirs, ours = families(library)[name]
        discrete = not has_rsample(ours(0.7))
        refused = {
            "score_function": name == "Uniform" and library != "flowjax",  # its support moves
            "reparameterized": discrete,
        }
        for estimator, no in refused.items():
            found = rgrad.exact_moments(Problem(theirs, objective_of(name)), estimator)
            if no:
                assert found is None, (name, estimator)
                with pytest.raises(rgrad.NotApplicable, match=r"rsample|support"):
                    gradient(theirs, estimator)
                continue
            expected = of_numpyro(Twin(ours), name, estimator)
            assert found is not None, (name, estimator)
            assert expected is not None, (name, estimator)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a["t"], b["t"], rtol=1e-7, atol=1e-10, err_msg=f"{name} {estimator}")
            if not discrete or estimator == "score_function":
                assert found.mean["t"] != 0, name
        known.append(name)
    return known


class Twin:
    """A family of NumPyro. Two are equal if they have the same type, parameters and derivatives at 0.7."""

    def __init__(self, make):
        self.make = make
        q, slope = jax.jvp(make, (0.7,), (1.0,))
        self.key = (str(jax.tree.structure(q)), *(np.asarray(x).tobytes() for x in jax.tree.leaves((q, slope))))

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)


@cache
def of_numpyro(twin, name, estimator):
    return rgrad.exact_moments(Problem(twin.make, objective_of(name)), estimator)


def objective_of(name):
    if name in HEAVY:
        return bounded
    return periodic if name == "VonMises" else cubic


def cubic(t, x):
    """The coordinates have different weights, so that two in the wrong order are found."""
    return (jnp.sum(jnp.asarray(x, float) * jnp.arange(1.0, 1.0 + jnp.size(x)).reshape(jnp.shape(x))) - t / 3) ** 3


def bounded(t, x):
    return 1 / (1 + (x - t / 2) ** 2)


def periodic(t, x):
    return jnp.sin(x - t / 2) + jnp.cos(2 * x)


class Problem:
    params = {"t": 0.7}  # noqa: RUF012

    def __init__(self, make, objective=cubic):
        self.make, self.of = make, objective

    def distribution(self, params):
        return self.make(params["t"])

    def objective(self, params, x):
        return self.of(params["t"], x)


@pytest.mark.long
def test_parameters_that_have_defaults_or_broadcast():
    """Of normal vectors: no location, a location or a scale without the batch, a negative diagonal."""
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax", reason="TFP is not installed")
    d, scale, flipped = tfp.distributions, jnp.array([1.5, 0.8]), jnp.array([[-1.5, 0.0], [0.4, 0.8]])
    locs, weights = jnp.arange(6.0).reshape(3, 2), jnp.array([0.2, 0.3, 0.5])
    mixture = lambda parts: d.MixtureSameFamily(d.Categorical(probs=weights), parts)
    x = jnp.array([0.3, -1.2])
    for make in (
        lambda t: d.MultivariateNormalDiag(scale_diag=t * scale),
        lambda t: d.MultivariateNormalTriL(scale_tril=jnp.diag(t * scale)),
        lambda t: d.MultivariateNormalTriL(x + t, t * flipped),
        lambda t: d.MultivariateNormalDiag(t * jnp.ones(1), scale),
        lambda t: mixture(d.MultivariateNormalDiag(t * locs, scale)),
        lambda t: mixture(d.MultivariateNormalTriL(t * locs, t * flipped)),
    ):
        q = as_distribution(make(0.7), "test")
        assert isinstance(q, OfNumPyro)
        own, twin = (jax.value_and_grad(of)(0.7) for of in (
            lambda t, make=make: make(t).log_prob(x), lambda t, make=make: rgrad.log_prob(as_distribution(make(t), "test"), x)
        ))  # fmt: skip
        np.testing.assert_allclose(twin, own, rtol=2e-5)
        assert q.sample(KEY, (N,)).shape == (N, 2)


def test_a_mask_is_refused():
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax", reason="TFP is not installed")
    d = tfp.distributions
    with pytest.raises(ValueError, match=r"expect: Normal is masked. A mask removes the density but not the sample"):
        rgrad.expect(square, d.Masked(d.Normal(0.0, 1.0), False), KEY)
    assert jnp.isfinite(rgrad.expect(square, d.Masked(d.Normal(0.0, 1.0), True), KEY))


def test_rules_for_types_apply():
    for library, name, estimator in (
        ("tfp", "Gamma", rgrad.generalized),
        ("tfp", "Poisson", rgrad.measure_valued),
        ("distreqx", "Categorical", rgrad.enumerated),
        ("distreqx", "OneHotCategorical", rgrad.rebar),
        ("distreqx", "OneHotCategorical", rgrad.straight_through),
        ("flowjax", "Gamma", rgrad.rejection),
        ("flowjax", "MultivariateNormal", "score_function+delta"),
    ):
        theirs, _ = families(library)[name]
        jax.eval_shape(lambda t, theirs=theirs, estimator=estimator: gradient(theirs, estimator, t), 0.7)
    for estimator in (rgrad.disarm, rgrad.gumbel_softmax):  # a relaxed bit stays a float
        theirs, ours = families("distrax")["Bernoulli"]
        np.testing.assert_allclose(gradient(theirs, estimator), gradient(ours, estimator), rtol=2e-4)


def flow(t, key=KEY, **options):
    flows = pytest.importorskip("flowjax.flows", reason="FlowJAX is not installed")
    from flowjax.bijections import Affine
    from flowjax.distributions import StandardNormal, Transformed

    inner = flows.coupling_flow(key, base_dist=StandardNormal((2,)), flow_layers=2, nn_width=3, **options)
    return Transformed(inner, Affine(jnp.full(2, t)))


def test_a_flow_is_differentiated_through_its_transforms():
    q = as_distribution(flow(0.7), "test")
    assert (q.has_rsample, q.event_shape, q.support) == (True, (2,), ())
    by_hand = lambda t: jax.vmap(square)(flow(t).sample(KEY, (N,))).mean()
    np.testing.assert_allclose(
        gradient(flow, rgrad.reparameterized), jax.jit(jax.value_and_grad(by_hand))(0.7), rtol=1e-5
    )
    x = flow(0.7).sample(KEY, (N,))
    score = lambda t: (jax.vmap(square)(x) * jax.vmap(flow(t).log_prob)(x)).mean()
    np.testing.assert_allclose(gradient(flow, rgrad.score_function)[1], jax.jit(jax.grad(score))(0.7), rtol=1e-4)


def test_a_detached_module_keeps_what_is_not_an_array():
    """The weights of a flow are constant, and its functions are kept. Its own class is kept too."""
    q = flow(0.7)
    constant = rgrad.detach(q)
    assert type(constant) is type(q)
    assert any(callable(leaf) for leaf in jax.tree.leaves(q))
    slopes = jax.grad(lambda t: flow(t).log_prob(jnp.ones(2)) - rgrad.detach(flow(t)).log_prob(jnp.ones(2)))(0.7)
    np.testing.assert_allclose(slopes, jax.grad(lambda t: flow(t).log_prob(jnp.ones(2)))(0.7))
    loss = lambda t: rgrad.elbo(lambda z: -square(z), flow(t), KEY, N, entropy="detached")
    by_hand = lambda t: jax.vmap(lambda z: -square(z) - constant.log_prob(z))(flow(t).sample(KEY, (N,))).mean()
    np.testing.assert_allclose(jax.grad(loss)(0.7), jax.grad(by_hand)(0.7), rtol=1e-4)


@pytest.mark.long
def test_a_flow_reaches_its_target():
    """A masked autoregressive flow fitted to a correlated normal with a curved ridge.

    The flow can be the target, where the gradient of the detached ELBO is 0, and the ELBO is log Z = 0."""
    flows = pytest.importorskip("flowjax.flows", reason="FlowJAX is not installed")
    import equinox as eqx
    import optax
    from flowjax.distributions import StandardNormal

    start = flows.masked_autoregressive_flow(KEY, base_dist=StandardNormal((2,)), flow_layers=3, nn_width=16)
    arrays, static = eqx.partition(start, eqx.is_inexact_array)

    def log_g(z):
        first = dist.Normal(1.0, 0.5).log_prob(z[0])
        return first + dist.Normal(2 * z[0] - 1, 0.3).log_prob(z[1])

    loss = lambda arrays, key: -rgrad.elbo(log_g, eqx.combine(arrays, static), key, 32, entropy="detached")
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, 1500))

    @jax.jit
    def step(carry, key):
        arrays, state = carry
        updates, state = optimizer.update(jax.grad(loss)(arrays, key), state)
        return (optax.apply_updates(arrays, updates), state), None

    (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(KEY, 1500))
    q = eqx.combine(arrays, static)
    assert -0.02 < -loss(arrays, jax.random.key(1)) < 0.02
    x = q.sample(jax.random.key(2), (20_000,))
    np.testing.assert_allclose(x.mean(0), [1.0, 1.0], atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), [[0.25, 0.5], [0.5, 1.09]], atol=0.06)


def moving():
    """Distributions without a twin: `score_function` is refused if the support may move with t."""
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax", reason="TFP is not installed")
    distrax = pytest.importorskip("distrax", reason="distrax is not installed")
    d, b = tfp.distributions, tfp.bijectors
    chain = lambda *maps: distrax.Chain(list(maps))
    return {
        "a normal, shifted and scaled": (lambda t: d.TransformedDistribution(d.Normal(t, 1.0), b.Shift(t)(b.Scale(t))), False),
        "a sigmoid of it": (lambda t: d.TransformedDistribution(d.Normal(t, 1.0), b.Sigmoid()(b.Scale(t))), False),
        "a scaled sigmoid": (lambda t: d.TransformedDistribution(d.Normal(t, 1.0), b.Scale(t)(b.Sigmoid())), True),
        "a triangle": (lambda t: d.Triangular(0.0, t, 0.3), True),
        "from t on": (lambda t: d.HalfStudentT(3.0, t, 1.0), True),
        "from a computed number on": (lambda t: d.GeneralizedPareto(t, 1.0, 0.2), True),
        "a mixture with a moving part": (
            lambda t: d.Mixture(d.Categorical(probs=[0.5, 0.5]), [d.Normal(t, 1.0), d.Uniform(0.0, t)]), True,
        ),
        "distrax: tanh last": (lambda t: distrax.Transformed(distrax.Normal(0.0, 0.1), chain(distrax.Tanh(), distrax.ScalarAffine(t))), False),
        "distrax: tanh first": (lambda t: distrax.Transformed(distrax.Normal(0.0, 0.1), chain(distrax.ScalarAffine(t), distrax.Tanh())), True),
        "distrax: a function": (lambda t: distrax.Transformed(distrax.Normal(0.0, 0.1), scaled_tanh(distrax.Lambda, t)), True),
        "distrax: pieces": (lambda t: distrax.CategoricalUniform(low=0.0, high=t, logits=jnp.zeros(3)), True),
    }  # fmt: skip


def scaled_tanh(make, t):
    """A map whose parameter is hidden in functions."""
    slope = lambda x: jnp.log(t * (1 - jnp.tanh(x) ** 2))
    back = lambda y: jnp.arctanh(y / t)
    return make(lambda x: t * jnp.tanh(x), back, slope, lambda y: -slope(back(y)), event_ndims_in=0)


def test_a_moving_support_is_refused():
    for name, (make, moves) in moving().items():
        trace = lambda make=make: jax.eval_shape(lambda t: gradient(make, rgrad.score_function, t), 0.7)
        if moves:
            with pytest.raises(rgrad.NotApplicable, match=r"the support of .* depends on a parameter"):
                trace()
        else:
            assert trace()[1].shape == (), name


def test_only_known_distributions_are_reparameterized():
    distrax = pytest.importorskip("distrax", reason="distrax is not installed")
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax", reason="TFP is not installed")
    flowjax = pytest.importorskip("flowjax.distributions", reason="FlowJAX is not installed")
    bijections = pytest.importorskip("flowjax.bijections")
    d, b = tfp.distributions, tfp.bijectors

    class Own(distrax.Normal):  # it may draw in another way
        pass

    class OwnTransformed(distrax.Transformed):
        def _sample_n(self, key, n):
            return super()._sample_n(key, n)

    normals = distrax.Normal(0.0, 1.0)
    for q, expected in (
        (d.TransformedDistribution(d.Gamma(2.0, 1.0), b.Log()), True),
        (d.TransformedDistribution(d.VonMisesFisher(jnp.array([1.0, 0.0]), 1.0), b.Identity()), False),
        (d.Skellam(1.0, 2.0), False),
        (distrax.Transformed(normals, distrax.Tanh()), True),
        (distrax.Transformed(distrax.MixtureOfTwo(0.5, normals, normals), distrax.Tanh()), False),
        (distrax.Joint((normals, distrax.Gamma(1.0, 2.0))), True),
        (distrax.Independent(distrax.Transformed(distrax.Normal(jnp.zeros(2), 1.0), distrax.Tanh()), 1), True),
        (distrax.Transformed(distrax.VonMises(0.0, 1.0), distrax.Tanh()), False),
        (distrax.Joint((normals, distrax.Bernoulli(0.0))), False),
        (Own(0.0, 1.0), False),
        (OwnTransformed(normals, distrax.Tanh()), False),
        (flowjax.Transformed(flowjax.StandardNormal((2,)), bijections.Affine(jnp.ones(2))), True),
    ):
        found = as_distribution(q, "test")
        assert isinstance(found, Adapted), type(q)
        assert found.has_rsample is expected, type(q)
    cure = r"reparameterized needs q.rsample, and Own has none: rgrad does not know .* give rgrad.distribution\("
    with pytest.raises(rgrad.NotApplicable, match=cure):
        rgrad.expect(square, Own(0.0, 1.0), KEY)
    np.testing.assert_allclose(
        gradient(lambda t: Own(t, 1.3), rgrad.score_function, f=lambda x: 1.0)[1],
        jax.grad(lambda t: Own(t, 1.3).log_prob(Own(0.7, 1.3).sample(seed=KEY, sample_shape=(N,))).mean())(0.7),
        rtol=1e-5,
    )


# `rgrad.distribution`, and what an object without a library must have


def rayleigh(scale, **options):
    return rgrad.distribution(
        lambda key, shape: scale * jax.random.rayleigh(key, 1.0, shape),
        lambda x: jnp.log(x) - 2 * jnp.log(scale) - (x / scale) ** 2 / 2,
        **{"reparameterized": True, **options},
    )


class OneByOne:
    """`sample(key)`, a vector, and a log_prob for each coordinate, as in distreqx."""

    event_shape = (2,)

    def __init__(self, loc):
        self.loc = loc

    def sample(self, key):
        return self.loc + jax.random.normal(key, (2,))

    def log_prob(self, x):
        return dist.Normal(self.loc, 1.0).log_prob(x)


def test_two_functions_make_a_distribution():
    by_hand = lambda t: (t * jax.random.rayleigh(KEY, 1.0, (N,))) ** 2
    np.testing.assert_allclose(
        gradient(rayleigh, rgrad.reparameterized), jax.value_and_grad(lambda t: by_hand(t).mean())(0.7), rtol=1e-5
    )
    x = 0.7 * jax.random.rayleigh(KEY, 1.0, (N,))
    slope = jnp.mean(x**2 * (x**2 / 0.7**3 - 2 / 0.7))
    np.testing.assert_allclose(gradient(rayleigh, rgrad.score_function)[1], slope, rtol=1e-5)
    with pytest.raises(rgrad.NotApplicable, match="made with reparameterized=False; use score_function"):
        gradient(partial(rayleigh, reparameterized=False), rgrad.reparameterized)


def test_a_log_prob_for_each_coordinate_is_summed():
    q = OneByOne(jnp.zeros(2))
    x = jnp.array([0.3, -1.2])
    assert rgrad.log_prob(as_distribution(q, "test"), x) == q.log_prob(x).sum() == rgrad.log_prob(q, x)
    of_functions = rgrad.distribution(lambda key: q.sample(key), q.log_prob, reparameterized=True, event_shape=(2,))
    np.testing.assert_allclose(of_functions.log_prob(x), q.log_prob(x).sum())
    assert of_functions.sample(KEY, (3, 5)).shape == (3, 5, 2)


def test_detach_holds_what_functions_close_over():
    """-KL(q, p) with a detached density of q: the dropped term is the score, so the sum of both is the whole."""
    log_g = lambda x: -(x**2)

    def part(t, live):
        q = rayleigh(t)
        density = q if live else rgrad.detach(q)
        return rgrad.expect(lambda x: log_g(x) - rgrad.log_prob(density, x), q, KEY, N)

    elbo = lambda t, entropy: rgrad.elbo(log_g, rayleigh(t), KEY, N, entropy=entropy)
    np.testing.assert_allclose(jax.grad(part)(0.7, False), jax.grad(elbo)(0.7, "detached"), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(part)(0.7, True), jax.grad(elbo)(0.7, "sampled"), rtol=1e-5)
    x = 0.7 * jax.random.rayleigh(KEY, 1.0, (N,))
    score = jnp.mean(x**2 / 0.7**3 - 2 / 0.7)
    np.testing.assert_allclose(jax.grad(part)(0.7, False) - score, jax.grad(part)(0.7, True), rtol=1e-4)
    with pytest.raises(NotImplementedError, match="first order only"):
        jax.hessian(elbo)(0.7, "detached")
    assert jax.grad(lambda t: rgrad.detach(rayleigh(t)).sample(KEY, ()))(0.7) == 0


class Wrong:
    event_shape = (2,)
    has_rsample = False

    def __init__(self, drawn=(2,), density=()):
        self.drawn, self.density = drawn, density

    def sample(self, key, shape):
        return jax.random.normal(key, shape + self.drawn)

    def log_prob(self, x):
        return jnp.zeros(self.density)


class Theirs(Wrong):
    """The same without `has_rsample`, as in a library."""

    has_rsample = property()  # hasattr is False

    def log_prob(self, x):
        return None if self.density is None else jnp.zeros(self.density)


class OneSample(Wrong):
    def sample(self, key, shape):
        return jax.random.normal(key, (2,))


class OfTorch:
    """The members of a distribution of PyTorch."""

    has_rsample = True

    def sample(self, sample_shape=()):
        return np.zeros(sample_shape)

    rsample = sample

    def log_prob(self, value):
        return value


BAD = {
    "SciPy": (lambda: scipy.stats.norm(0, 1), TypeError, r"expect: q is a distribution of SciPy .*; use the same one of numpyro"),
    "torch": (OfTorch, TypeError, r"expect: OfTorch.sample takes \(sample_shape\) and no PRNG key, .*; use the same one of numpyro"),
    "a class": (lambda: dist.Normal, TypeError, r"expect: Normal is a class; give it its parameters"),
    "another class": (lambda: OneByOne, TypeError, r"expect: OneByOne is a class; give it its parameters"),
    "a dict": (lambda: {"loc": 0.0}, TypeError, r"expect: q must be a distribution, got dict, which has no sample, log_prob.*; give e.g."),
    "a string": (lambda: "normal", TypeError, r"expect: q must be a distribution, got str, which has no sample"),
    "a function": (lambda: square, TypeError, r"expect: q must be a distribution, got function"),
    "a shape of samples": (lambda: Wrong(drawn=(3,)), ValueError, r"Wrong.sample returns shape \(1, 3\) for shape \(1,\); it must return \(1, 2\)"),
    "one sample": (OneSample, ValueError, r"OneSample.sample returns shape \(2,\) for shape \(1,\); it must return \(1, 2\)"),
    "a shape of log_prob": (lambda: Wrong(density=(5,)), ValueError, r"Wrong.log_prob returns shape \(5,\) for one sample; it must return a scalar"),
    "theirs: a shape of samples": (lambda: Theirs(drawn=(3,)), ValueError, r"expect: Theirs.sample returns shape \(4, 3\) for shape \(4,\); it must return \(4, 2\)"),
    "theirs: a shape of log_prob": (lambda: Theirs(density=(5,)), ValueError, r"expect: Theirs.log_prob returns shape \(5,\) for one sample"),
    "theirs: no log_prob": (lambda: Theirs(density=None), ValueError, r"expect: Theirs.log_prob returns NoneType for one sample"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_object_gets_one_clear_error(name):
    make, kind, message = BAD[name]
    q, score = make(), rgrad.score_function
    with pytest.raises(kind, match=message):
        rgrad.expect(square, q, KEY, estimator=score)
    if name in ("SciPy", "torch", "a shape of samples", "theirs: a shape of log_prob"):
        for call in (
            lambda: rgrad.elbo(square, q, KEY, 1, score),
            lambda: rgrad.iwae(square, q, KEY, 2, gradient=score),
            lambda: rgrad.expect_program(lambda draw: square(draw(q)), KEY, 1, score),
        ):
            with pytest.raises(kind, match=r"SciPy|\.sample (takes|returns)|\.log_prob returns"):
                call()


class Plain:
    """Samples of the right shape and density, without an event_shape, and of a family that exact_moments does not know."""

    has_rsample = False

    def sample(self, key, shape):
        return jax.random.normal(key, shape)

    def log_prob(self, x):
        return -(x**2) / 2


MEASURED = {
    "exact_moments": lambda q: rgrad.exact_moments(Problem(lambda t: q), "score_function"),
    "measure": lambda q: rgrad.measure(partial(loss, q, 0.7), KEY, 2),
    "compare": lambda q: rgrad.compare(Problem(lambda t: q), key=KEY, budget=0.01),
    "sweep": lambda q: rgrad.sweep(Problem(lambda t: q), {"t": [0.3, 0.7]}, "score_function", key=KEY, replicates=2),
    "fit": lambda q: rgrad.fit(partial(loss, q), 0.7, optax.sgd(0.1), KEY, 2),
}


def loss(q, t, key):
    return rgrad.expect(lambda x: t * square(x), q, key, 2, "score_function")


@pytest.mark.parametrize("call", MEASURED)
@pytest.mark.parametrize("name", BAD)
def test_what_measures_raises_the_same_error(call, name):
    """None and a result are wrong answers: `exact_moments` returns None if no exact value is known."""
    make, kind, message = BAD[name]
    message = re.sub(r"\\\(\d", r"\\(\\d+", message.replace("expect: ", "(expect|exact_moments|compare): "))
    with pytest.raises(kind, match=message):
        MEASURED[call](make())


def test_no_exact_value_is_none():
    assert rgrad.exact_moments(Problem(lambda t: Plain()), "score_function") is None
    assert rgrad.exact_moments(Problem(lambda t: Plain()), "reparameterized") is None  # it does not apply


def test_torch_itself_is_refused():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(TypeError, match=r"Normal.sample takes \(sample_shape\) and no PRNG key"):
        rgrad.expect(square, torch.distributions.Normal(0.0, 1.0), KEY)


def test_batches_conditions_and_joint_distributions_are_refused():
    distrax = pytest.importorskip("distrax", reason="distrax is not installed")
    tfp = pytest.importorskip("tensorflow_probability.substrates.jax", reason="TFP is not installed")
    d = tfp.distributions
    for q in (d.Normal(jnp.zeros(3), 1.0), distrax.Normal(jnp.zeros(3), 1.0)):
        with pytest.raises(
            ValueError, match=r"expect: Normal has batch_shape \(3,\).*Independent\(q, reinterpreted_batch_ndims=1\)"
        ):
            rgrad.expect(square, q, KEY)
    with pytest.raises(TypeError, match=r"expect: JointDistributionNamed .* write it as a program"):
        rgrad.expect(square, d.JointDistributionNamed({"a": d.Normal(0.0, 1.0)}), KEY)
    with pytest.raises(ValueError, match=r"expect: Transformed is conditional on an array of shape \(3,\)"):
        rgrad.expect(square, flow(0.7, cond_dim=3), KEY)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"sample": 3}, TypeError, "distribution: sample must be callable, got int 3"),
        ({"log_prob": None}, TypeError, "distribution: log_prob must be callable"),
        ({"reparameterized": 1}, TypeError, "distribution: reparameterized must be True or False, got 1"),
        ({"event_shape": (2,)}, ValueError, r"distribution: q.sample returns shape \(4,\) for shape \(4,\); it must return \(4, 2\)"),
        ({"log_prob": lambda x: jnp.zeros(4)}, ValueError, r"distribution: q.log_prob returns shape \(4,\)"),
        ({"sample": lambda shape: shape}, TypeError, r"distribution: TwoFunctions.sample takes \(shape\) and no PRNG key"),
        ({"sample": lambda key, shape: jax.random.bernoulli(key, 0.5, shape)}, TypeError, "the samples are bool and have no derivative"),
    ],
)  # fmt: skip
def test_bad_functions(arguments, kind, message):
    given = {
        "sample": lambda key, shape: jax.random.normal(key, shape),
        "log_prob": lambda x: -x,
        "reparameterized": True,
    }
    with pytest.raises(kind, match=message):
        rgrad.distribution(**{**given, **arguments})


def test_a_direct_call_of_an_estimator_names_expect():
    distrax = pytest.importorskip("distrax", reason="distrax is not installed")
    with pytest.raises(
        TypeError,
        match=r"score_function: .* Normal, which has no has_rsample; rgrad.expect\(f, q, key, n, estimator\) accepts it",
    ):
        rgrad.score_function(square, distrax.Normal(0.0, 1.0), KEY, 3)


# Everywhere a q is accepted, also inside traced functions


@pytest.mark.parametrize("library", LIBRARIES)
def test_inside_traced_functions(library):
    """One program: q built within jit, vmap and grad, for a continuous family, and for bits if there are any."""
    names = [name for name in ("Normal", "Bernoulli") if name in families(library)]

    def losses(t, key, side):
        return sum(
            rgrad.expect(square, families(library)[name][side](t), key, N, rgrad.score_function) for name in names
        )

    ts, keys = jnp.array([0.3, 0.7]), jax.random.split(KEY)
    found, expected = (jax.jit(jax.vmap(jax.grad(partial(losses, side=side))))(ts, keys) for side in (0, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_door():
    """Each accepts bits of distreqx, and f sees int8. One of them is evaluated."""
    theirs, ours = families("distreqx")["Bernoulli"]
    score, log_g, seen = rgrad.score_function, lambda z: (seen.append(z.dtype), -square(z))[1], []
    doors = {
        "elbo": lambda q: rgrad.elbo(log_g, q, KEY, N, score),
        "elbo, detached": lambda q: rgrad.elbo(log_g, q, KEY, N, score, entropy="detached"),
        "iwae": lambda q: rgrad.iwae(log_g, q, KEY, 3, gradient=rgrad.vimco),
        "iwae by name": lambda q: rgrad.iwae(log_g, q, KEY, 3, gradient="disarm"),
        "antithetic": lambda q: rgrad.expect(log_g, rgrad.antithetic(q), KEY, N, score),
        "jax_random": lambda q: rgrad.expect(log_g, rgrad.jax_random(q), KEY, N, score),
        "keyed": lambda q: rgrad.expect(lambda x, key: log_g(x), q, KEY, N, score, keyed=True),
        "program": lambda q: rgrad.expect_program(lambda draw: log_g(draw(q)), KEY, 2, score),
        "by name": lambda q: rgrad.expect(log_g, q, KEY, N, "score_function+stratified"),
    }
    for door, call in doors.items():
        seen.clear()
        jax.eval_shape(jax.grad(lambda t, call=call: call(theirs(t))), 0.7)
        assert set(seen) == {jnp.dtype("int8")}, door
    for door in ("elbo, detached",):
        found, expected = (
            jax.grad(lambda t, make=make, door=door: doors[door](make(t)))(0.7) for make in (theirs, ours)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=door)
    theirs, _ = families("tfp")["StudentT"]
    assert isinstance(rgrad.location_scale(jnp.zeros(2), jnp.eye(2), theirs(0.7)), dist.TransformedDistribution)
    normal = families("distrax")["Normal"][0]
    jax.eval_shape(jax.grad(lambda t: rgrad.expect(square, normal(t), KEY, N, BOTH)), 0.7)


BOTH = rgrad.combine([rgrad.reparameterized, rgrad.score_function])._replace(weights=jnp.full((2, 2), 0.5))


def test_a_program_sees_the_dtypes_of_the_library():
    dq, seen = families("distreqx"), []

    def program(draw):
        b = draw(dq["Bernoulli"][0](jnp.asarray(0.7)), "disarm")
        seen.append(b.dtype)
        return square(draw(dq["Normal"][0](b * 1.0)) + b)

    rgrad.expect_program(program, KEY, 2)
    assert set(seen) == {jnp.dtype("int8")}
    trace = rgrad.trace_program(program, KEY)
    assert trace.sites[0].value.dtype == jnp.int8


def test_instances_pass_through_jit():
    """They are pytrees, so they may be arguments of traced functions."""
    for name in ("Normal", "Bernoulli"):
        q = families("distreqx")[name][0](jnp.asarray(0.7))
        found = jax.jit(lambda q: rgrad.expect(square, q, KEY, N, rgrad.score_function))(q)
        np.testing.assert_allclose(
            found, rgrad.expect(square, families("distreqx")[name][1](0.7), KEY, N, rgrad.score_function), rtol=1e-5
        )


@pytest.mark.long
def test_problems_of_other_libraries_are_compared():
    """`check_objective`, jumps, exact values and references, with bits that are int8."""
    theirs, _ = families("distreqx")["Bernoulli"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rgrad.compare(Problem(theirs), ["score_function", "enumerated"], key=KEY, cost="operations", budget=1.0)
    assert {row["estimator"] for row in found.rows} == {"score_function", "enumerated"}
