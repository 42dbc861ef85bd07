"""The noise has the bits of `jax.random`, the exact distribution and independence. Samples of it are differentiable."""

import math
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import erfc, ndtr, ndtri

import rgrad
from rgrad.backend import noise
from rgrad.distributions.draws import draw, draw_pathwise, jax_random
from rgrad.distributions.implicit import rsample, sample

KEY = jax.random.key(3)
KEYS = [KEY, jax.random.key(2**31 - 1), jax.random.PRNGKey(7), jax.random.split(KEY)[1]]
LONG = 2**16, 64  # keys, and numbers per key: the loop runs over the blocks of a key
SHORT = 2**17, 29  # the loop runs over keys, and one word is left over


@pytest.fixture(scope="module")
def normals():
    """4 million numbers in either shape (keys, numbers)."""
    return {shape: many(KEY, *shape) for shape in (LONG, SHORT)}


def many(key, keys, count):
    return np.asarray(jax.jit(jax.vmap(partial(noise.normal, shape=(count,))))(jax.random.split(key, keys)))


@pytest.mark.parametrize("key", KEYS, ids=["key", "large", "legacy", "split"])
def test_the_bits_are_those_of_jax(key):
    for shape in ((), (1,), (7,), (4, 6), (3, 5, 7), (0,)):
        assert_array_equal(noise.bits(key, shape), jax.random.bits(key, shape, "uint32"))
    for data in (0, 1, 77, np.uint32(2**32 - 1)):
        mine, theirs = noise.fold_in(key, data), jax.random.fold_in(key, data)
        assert mine.dtype == theirs.dtype
        assert_array_equal(jax.random.key_data(mine), jax.random.key_data(theirs))


def test_the_bits_are_those_of_jax_under_vmap_and_jit():
    keys, data = jax.random.split(KEY, (2, 3)), jnp.arange(6, dtype=jnp.uint32).reshape(2, 3)
    twice = lambda f: jax.jit(jax.vmap(jax.vmap(f)))
    assert_array_equal(
        twice(lambda k: noise.bits(k, (3, 3)))(keys), twice(lambda k: jax.random.bits(k, (3, 3), "uint32"))(keys)
    )
    assert_array_equal(
        jax.random.key_data(twice(noise.fold_in)(keys, data)),
        jax.random.key_data(twice(jax.random.fold_in)(keys, data)),
    )


def test_both_words_of_a_block_are_used():
    """A key with 2 m numbers uses m blocks. Its numbers are the Box-Muller transform, in 64 bits, of their words."""
    words = jax.random.key_data(KEY)
    first, second = noise.threefry2x32((words[0], words[1]), jnp.arange(500, dtype=jnp.uint32))
    assert_array_equal(first ^ second, jax.random.bits(KEY, (500,), "uint32"))
    u, w = (np.asarray(first, np.float64) + 0.5) / 2**32, np.asarray(second)
    angle = np.pi / 4 * (w << 2).view(np.int32) / 2**31
    x = np.where(w >> 31, -1, 1) * np.cos(angle)
    radius, y, exchange = np.sqrt(-2 * np.log(u)), np.sin(angle), (w >> 30) & 1 == 1
    want = radius * np.stack([np.where(exchange, y, x), np.where(exchange, x, y)])
    assert_allclose(noise.normal(KEY, (1000,)), want.ravel(), rtol=1e-6, atol=1e-6)
    assert_allclose(noise.normal(KEY, (999,)), want.ravel()[:999], rtol=1e-6, atol=1e-6)


def test_the_extreme_words_give_finite_numbers():
    edge = np.array([0, 1, 2**8, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    first, second = (jnp.asarray(x.ravel()) for x in np.meshgrid(edge, edge))
    e = np.stack(noise.FROM_WORDS["normal"](first, second))
    assert np.isfinite(e).all()
    assert 6.7 < np.abs(e).max() <= 6.77
    u = np.stack(noise.FROM_WORDS["uniform"](first, second))
    assert (u.min(), u.max()) == (2.0**-24, 1 - 2.0**-24)


# The distribution. Every check takes (keys, numbers). A test below shows that each one fails on a planted fault.
def check_moments(e):
    """Moments up to the eighth, each within 5.5 standard errors: false failures 3e-7 in total."""
    double = lambda k: math.prod(range(k - 1, 0, -2)) if k % 2 == 0 else 0  # E e^k
    power = np.ones(e.size)
    for k in range(1, 9):
        power *= e.ravel()
        error = ((double(2 * k) - double(k) ** 2) / e.size) ** 0.5
        assert abs(power.mean() - double(k)) < 5.5 * error, k


def check_tails(e):
    """The counts beyond +-4, +-5 and +-6 follow Poisson distributions: false failures 6e-8 in total."""
    for edge in (4, 5, 6):
        for beyond in ((e > edge).sum(), (e < -edge).sum()):
            low, high = stats.poisson.interval(1 - 1e-8, e.size * erfc(edge / 2**0.5) / 2)
            assert low <= beyond <= high, edge


def check_distribution(e):
    """The statistics of Kolmogorov-Smirnov and of Anderson-Darling: false failures 5e-7 in total.

    The probability that the latter exceeds 13.5 is 2 * 3^(1/2) * (1 - Phi(27^(1/2))). This is the first term of its
    tail: it is a sum of chi-squares with weights 1/(j (j + 1)).
    """
    e = np.sort(e.ravel())
    n, largest, weighted = e.size, 0.0, -float(e.size)
    for i in range(0, n, 2**22):
        rank, x = np.arange(i + 1, min(i + 2**22, n) + 1), e[i : i + 2**22].astype(np.float64)
        p, q = ndtr(x), ndtr(-x)
        largest = max(largest, (rank / n - p).max(), (p - (rank - 1) / n).max())
        weighted -= ((2 * rank - 1) / n * np.log(p) + (2 * (n - rank) + 1) / n * np.log(q)).sum()
    assert stats.kstwobign.sf(n**0.5 * largest) > 1e-7, largest
    assert weighted < 13.5, weighted


def check_independence(e):
    """Correlations of e and e^2 with the next number, the other one of the block, and the same one of the next key.

    Each is below 5.6/sqrt(pairs): false failures 2e-7 in total. It catches correlations of 9/sqrt(pairs), which is
    0.005 for 4 million.
    """
    blocks = -(-e.shape[1] // 2)
    pairs = {
        "neighbours": (e[:, :-1], e[:, 1:]),
        "halves": (e[:, : e.shape[1] - blocks], e[:, blocks:]),
        "keys": (e[:-1], e[1:]),
    }
    for name, (a, b) in pairs.items():
        for f, g in ((lambda x: x,) * 2, (np.square,) * 2, (lambda x: x, np.square)):
            assert abs(np.corrcoef(f(a).ravel(), g(b).ravel())[0, 1]) < 5.6 / a.size**0.5, name


CHECKS = [check_moments, check_tails, check_distribution, check_independence]


@pytest.mark.parametrize("shape", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("check", CHECKS)
def test_the_distribution_of_the_normals(check, shape, normals):
    check(normals[shape])


@pytest.mark.parametrize("check", CHECKS)
def test_the_checks_detect_a_fault(check, normals):
    e = normals[LONG].copy()
    if check is check_moments:
        e *= 1.002
    elif check is check_tails:
        e = np.clip(e, -4.2, 4.2)
        e[:400, 0] = 4.1
    elif check is check_distribution:
        e = ndtri((np.floor(ndtr(e) * 2**9) + 0.5) / 2**9)  # only 9 bits
    else:
        e[:, 32:] = e[:, :32] * np.sign(e[:, 32:])  # two equal words: only the squares are correlated
    with pytest.raises(AssertionError):
        check(e)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_distribution_of_a_hundred_million():
    """With 1e8 numbers this catches correlations of 0.001, cdfs off by 3e-4, tails off by 5e-2 at 4 and by 1 at 6."""
    e = np.concatenate([many(jax.random.fold_in(KEY, i), 2**15, 763) for i in range(4)])
    assert e.size > 1e8 - 1e5
    for check in CHECKS:
        check(e)


def test_uniforms():
    """The Kolmogorov-Smirnov distance and the correlations of 2 million uniforms: false failures 3e-7."""
    u = np.asarray(jax.jit(jax.vmap(partial(noise.uniform, shape=(64,))))(jax.random.split(KEY, 2**15)))
    assert u.dtype == np.float32
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-7
    check_independence(u - 0.5)


@pytest.mark.parametrize("shape", [(3, 3), (30,), (31,), (9, 8)])  # up to 30 numbers per key are few, more are many
def test_the_same_numbers_under_every_transformation(shape):
    """Eager, under jit, vmap over any axis, scan and shard_map: equal up to rounding in the last bit."""
    keys = jax.random.split(KEY, 4)
    make = lambda k: noise.normal(k, shape)
    want = np.stack([make(k) for k in keys])
    same = partial(assert_allclose, rtol=1e-5, atol=1e-6)
    same(jax.jit(jax.vmap(make))(keys), want)
    same(
        jax.vmap(jax.vmap(make, 0, 1), 1, 0)(keys.reshape(2, 2)),
        want.reshape(2, 2, *shape).swapaxes(0, 1).swapaxes(1, 2),
    )
    same(jax.lax.scan(lambda c, k: (c, make(k)), 0, keys)[1], want)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
    along = jax.sharding.PartitionSpec("d")
    same(jax.jit(jax.shard_map(jax.vmap(make), mesh=mesh, in_specs=along, out_specs=along))(keys), want)
    assert jax.vmap(make)(keys[:0]).shape == (0, *shape)
    carried = lambda t: jax.lax.scan(
        lambda c, _: ((noise.fold_in(c[0], 1), c[1] * make(c[0]).ravel()[0]), 0.0), (KEY, t), None, 2
    )
    assert jax.grad(lambda t: carried(t)[0][1])(2.0) == pytest.approx(float(carried(1.0)[0][1]), rel=1e-5)


def test_other_keys_and_floats_are_those_of_jax(x64):
    """This holds for rbg keys, 64-bit floats, and the counters of older JAX."""
    assert_array_equal(noise.normal(KEY, (5,)), jax.random.normal(KEY, (5,)))
    assert noise.normal(KEY, (5,)).dtype == noise.uniform(KEY).dtype == np.float64
    other = jax.random.key(1, impl="rbg")
    assert_array_equal(noise.normal(other, (5,), np.float32), jax.random.normal(other, (5,), np.float32))
    assert_array_equal(noise.bits(other, (5,)), jax.random.bits(other, (5,), "uint32"))
    for q in (dist.Normal(0.0, 1.0), dist.Laplace(0.0, 1.0)):
        assert_array_equal(sample(q, KEY, (4,)), q.sample(KEY, (4,)))
    with jax.threefry_partitionable(False):
        assert_array_equal(noise.bits(KEY, (6,)), jax.random.bits(KEY, (6,), "uint32"))


TRIANGLE = jnp.array([[1.0, 0.0], [0.5, 2.0]])
FAMILIES = {
    "Normal": lambda a, b: dist.Normal(a, b),
    "LogNormal": lambda a, b: dist.LogNormal(a, b),
    "Uniform": lambda a, b: dist.Uniform(a, a + b),
    "Laplace": lambda a, b: dist.Laplace(a, b),
    "Logistic": lambda a, b: dist.Logistic(a, b),
    "Gumbel": lambda a, b: dist.Gumbel(a, b),
    "Cauchy": lambda a, b: dist.Cauchy(a, b),
    "Exponential": lambda a, b: dist.Exponential(b),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    """The distribution function of samples (false failures 1e-8 each), and `dx/dtheta = -(dF/dtheta) / p(x)`."""
    make, at = FAMILIES[family], (0.3, 0.7)
    q = make(*at)

    @jax.jit
    def both(a, b):
        draws = lambda a, b: rsample(make(a, b), KEY, (20_000,))
        x, slopes = draws(a, b), jax.jacfwd(draws, (0, 1))(a, b)
        density = jnp.exp(make(a, b).log_prob(x))
        implied = [-d / density for d in jax.jacfwd(lambda a, b: make(a, b).cdf(x), (0, 1))(a, b)]
        return x, sample(make(a, b), KEY, (20_000,)), slopes, implied

    x, y, slopes, implied = both(*at)
    assert_array_equal(x, y)
    assert stats.kstest(np.asarray(x, float), lambda x: np.asarray(q.cdf(jnp.asarray(x)))).pvalue > 1e-8
    middle = (q.cdf(x) > 0.05) & (q.cdf(x) < 0.95)
    for slope, want in zip(slopes, implied, strict=True):
        assert_allclose(slope[middle], want[middle], rtol=2e-3, atol=2e-3)
    assert not np.array_equal(x, q.sample(KEY, (20_000,)))


@pytest.mark.parametrize(
    "q",
    [
        dist.MultivariateNormal(jnp.array([1.0, 2.0]), scale_tril=TRIANGLE),
        rgrad.location_scale(jnp.array([1.0, 2.0]), TRIANGLE),
        dist.Normal(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.25**0.5])).to_event(1),
        dist.Normal(jnp.array([[1.0], [2.0]]), 1.0).expand((2, 3)).to_event(2),
    ],
    ids=["MultivariateNormal", "location_scale", "Independent", "Expanded"],
)
def test_vectors(q):
    """Means and variances are within 5.6 standard errors of those of NumPyro: false failures 1e-6 in total."""
    x = np.asarray(jax.jit(lambda: sample(q, KEY, (40_000,)))(), float)
    assert x.shape == (40_000, *q.event_shape)
    mean = np.broadcast_to(np.array([1.0, 2.0]).reshape(-1, *(1,) * (x.ndim - 2)), x.shape[1:])
    variance = np.broadcast_to(np.array([1.0, 4.25]) if x.ndim == 2 else 1.0, x.shape[1:])
    assert (np.abs(x.mean(0) - mean) < 5.6 * (variance / len(x)) ** 0.5).all()
    assert (np.abs(x.var(0) / variance - 1) < 5.6 * (2 / len(x)) ** 0.5).all()
    flat = np.corrcoef(x.reshape(len(x), -1).T)
    if isinstance(q, dist.MultivariateNormal) or type(q) is dist.TransformedDistribution:
        assert abs(flat[0, 1] - 0.5 / 4.25**0.5) < 5.6 / len(x) ** 0.5
    else:
        assert (np.abs(flat - np.eye(len(flat))) < 5.6 / len(x) ** 0.5).all()


def test_a_subclass_and_other_families_draw_as_they_are():
    class Mine(dist.Normal):
        def sample(self, key, sample_shape=()):
            return 7.0 + jnp.zeros(sample_shape)

    sticks = dist.TransformedDistribution(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1), dist.transforms.StickBreakingTransform()
    )
    for q in (
        Mine(0.0, 1.0),
        Mine(0.0, 1.0).expand((2,)).to_event(1),
        dist.Gamma(2.0, 1.0),
        dist.Poisson(0.3),
        sticks,
    ):
        assert_array_equal(sample(q, KEY, (4,)), q.sample(KEY, (4,)))
    assert (sample(Mine(0.0, 1.0), KEY, (4,)) == 7.0).all()


@pytest.mark.parametrize("q", [
    dist.Bernoulli(0.3), dist.Bernoulli(logits=-3.0), dist.Categorical(jnp.array([0.2, 0.0, 0.8])),
    dist.Categorical(logits=jnp.array([1.0, -30.0, 3.0])),
], ids=["probs", "logits", "classes", "class logits"])  # fmt: skip
def test_bits_and_categories(q):
    """Frequencies in 2^18 draws, within 6 standard errors. False failures: 2e-9 for each value. Catches an error of .6 %
    in a probability of 1/2."""
    x = jax.jit(lambda key: sample(q, key, (2**18,)))(KEY)
    assert x.dtype == q.sample(KEY).dtype
    values = q.enumerate_support()
    p = np.exp(np.asarray(jax.vmap(q.log_prob)(values), float))
    found = np.asarray([(x == v).mean() for v in values])
    assert (np.abs(found - p) <= 6 * np.sqrt(p * (1 - p) / x.size) + 1e-9 + 2.0**-24).all()
    assert (found[p < 1e-6] == 0).all()


def test_split_is_that_of_jax():
    for key in (KEY, jax.random.PRNGKey(3)):
        for num in (2, 5):
            ours = jax.jit(lambda key, num=num: noise.split(key, num))(key)
            assert ours.dtype == key.dtype
            assert_array_equal(_data(ours), _data(jax.random.split(key, num)))
            assert_array_equal(_data(noise.split(key, num)), _data(jax.random.split(key, num)))
        several = jax.jit(jax.vmap(noise.split))(jax.random.split(key, 3))
        assert_array_equal(_data(several), _data(jax.vmap(jax.random.split)(jax.random.split(key, 3))))


def _data(keys):
    return jax.random.key_data(keys) if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys


def test_jax_random_stays_selectable():
    q = dist.Normal(1.0, 2.0)
    for one in (draw, draw_pathwise):
        assert_array_equal(one(jax_random(q), KEY, 5, "test"), q.sample(KEY, (5,)))
        assert not np.array_equal(one(q, KEY, 5, "test"), q.sample(KEY, (5,)))

    def gradients(key):
        make = lambda t: jax_random(dist.Normal(t, 1.0))
        of = lambda estimator: jax.grad(lambda t: rgrad.expect(lambda x: x**2, make(t), key, 5, estimator))(2.0)
        return of(rgrad.reparameterized), of(rgrad.score_function)

    x = 2.0 + jax.random.normal(KEY, (5,))
    assert_allclose(jax.jit(gradients)(KEY), ((2 * x).mean(), (x**2 * (x - 2)).mean()), rtol=1e-5)
    assert jax_random(q).loc == 1.0
    with pytest.raises(TypeError, match="jax_random: q must be a distribution, got int"):
        jax_random(3)
    with pytest.raises(ValueError, match="jax_random: Normal has batch_shape"):
        jax_random(dist.Normal(jnp.zeros(2), 1.0))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it reads the program for CPU")
def test_two_estimators_with_one_key_make_the_noise_once():
    """The program has two conditionals (one makes the words, one splits the numbers) and one loop of square roots."""

    def gradients(t, key):
        of = lambda e: jax.grad(lambda t: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, 100, e))(t)
        return of(rgrad.reparameterized), of(rgrad.score_function)

    program = jax.jit(jax.vmap(gradients, (None, 0))).lower(2.0, jax.random.split(KEY, 64)).compile().as_text()
    assert len(re.findall(r" conditional\(", program)) == 2
    assert len(re.findall(r"f32\[64,50\]\S* sqrt\(", program)) == 1
    assert " while(" not in program


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it reads the program for CPU")
def test_few_numbers_of_many_keys_have_the_keys_along_the_rows():
    """Sums over the numbers of each key are then vectorised. The program has no transpose."""
    gradient = lambda t, key: jax.grad(
        lambda t: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, 10, rgrad.score_function)
    )(t)
    program = jax.jit(jax.vmap(gradient, (None, 0))).lower(2.0, jax.random.split(KEY, 64)).compile().as_text()
    assert re.search(r"f32\[10,64\]\S* conditional\(|\(f32\[10,64\]\S*\) conditional\(", program)
    assert "f32[64,10]{1,0} fusion(" not in program


@pytest.mark.parametrize("shape", [(), (3, 3), (30,), (31,)])
def test_other_platforms_use_jax_random_in_the_same_arrangement(shape):
    """The lowering for other platforms uses jax.random, with the same arrangement."""
    keys = jax.random.split(KEY, (2, 3))
    data = jax.random.key_data(keys)
    for kind, theirs in (("normal", jax.random.normal), ("uniform", jax.random.uniform)):
        got = noise._elsewhere(data[..., 0], data[..., 1], shape=shape, kind=kind)
        want = jax.vmap(jax.vmap(lambda key, theirs=theirs: theirs(key, shape)))(keys)
        if shape != (31,):  # with few numbers per key, the keys are the last axes
            got = jnp.moveaxis(got, (-2, -1), (0, 1))
        assert_allclose(got, want, rtol=1e-6, atol=2**-23)
        assert kind == "normal" or np.all((got > 0) & (got < 1))
        here = noise._noise.bind(data[..., 0], data[..., 1], shape=shape, kind=kind)
        assert here.shape == noise._elsewhere(data[..., 0], data[..., 1], shape=shape, kind=kind).shape


@pytest.mark.parametrize("shape", [(1,), (10,), (3, 11), (64,)])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_cuda_gives_the_same_numbers(shape, kind):
    """The lowering for NVIDIA GPUs, run here. It contains no branch, no host callback and no 64-bit numbers."""
    data = jax.random.key_data(jax.random.split(KEY, 5))
    args = data[:, 0], data[:, 1]
    there, here = (noise._of_blocks(*args, shape=shape, kind=kind, on_cpu=on_cpu) for on_cpu in (False, True))
    assert_allclose(there, here, atol=5e-7)
    draw = jax.jit(jax.vmap(lambda k: getattr(noise, kind)(k, shape)))
    text = jax.export.export(draw, platforms=("cuda",))(jax.random.split(KEY, 5)).mlir_module()
    assert not [name for name in ("stablehlo.case", "custom_call", "gather", "while", "f64") if name in text]


@pytest.mark.parametrize("keys", [jax.random.split(jax.random.key(0), 5), jax.random.split(jax.random.PRNGKey(0), 5)])
def test_several_keys_raise(keys):
    """As in jax.random, several keys raise: their words must not be taken for those of one key."""
    noise = rgrad.noise
    for call in (noise.normal, noise.uniform, noise.bits, lambda key, shape: noise.fold_in(key, 1)):
        with pytest.raises(ValueError, match=r"rgrad.noise: key is an array of keys, of shape \(5,\); give one"):
            call(keys, (3,))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_whose_draws_depend_on_the_batch_are_refused(impl):
    key, loss = jax.random.key(0, impl=impl), lambda params, key: params**2
    problem = SimpleNamespace(
        distribution=lambda p: dist.Normal(p["a"], 1.0), objective=lambda p, x: x, params={"a": 1.0}
    )
    for name, call in {
        "measure": lambda: rgrad.measure(jax.random.normal, key, 10),
        "sweep": lambda: rgrad.sweep(problem, {"a": [1.0]}, key=key, replicates=10),
        "fit": lambda: rgrad.fit(loss, 1.0, optax.sgd(0.1), key, 5),
    }.items():
        with pytest.raises(ValueError, match=rf"{name}: key is of the kind {impl}, .* jax.random.key\(seed\)"):
            call()
