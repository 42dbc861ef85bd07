"""`measure` and `Moments`: 64-bit NumPy on the same draws, coverage of the intervals, one program, no overflow."""

import os
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import rgrad
from rgrad import measure
from rgrad.measurement import streaming
from rgrad.measurement.batches import IN_FLIGHT, batch_for, in_flight

KEY = jax.random.key(3)
FIELDS = ("mean", "m2", "m3", "m4")


def cubed(key):
    """A skewed draw, with a mean far from 0 and a size far from 1."""
    return (3 + jax.random.normal(key)) ** 3 * 1e-9


def draws(draw, start, count, key=KEY):
    """The draws that `measure` must make, from the definition of their keys, as 64-bit floats."""
    numbers = np.arange(start, start + count, dtype=np.uint64)
    high, low = (
        jnp.asarray(numbers >> np.uint64(32), jnp.uint32),
        jnp.asarray(numbers & np.uint64(0xFFFFFFFF), jnp.uint32),
    )
    keys = jax.vmap(lambda h, lo: jax.random.fold_in(jax.random.fold_in(key, h), lo))(high, low)
    return np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64)


def moments_of(x):
    d = x - x.mean(0)
    return dict(zip(FIELDS, (x.mean(0), (d**2).mean(0), (d**3).mean(0), (d**4).mean(0)), strict=True))


def assert_same(moments, truth, rtol=1e-6):
    for field in FIELDS:
        np.testing.assert_allclose(getattr(moments, field), truth[field], rtol=rtol, err_msg=field)


@pytest.mark.parametrize("batch", [None, 1, 64, 4096])
def test_the_same_draws_whatever_the_batch(batch):
    moments = rgrad.measure(cubed, KEY, 5000, batch=batch)
    x = draws(cubed, 0, 5000)
    assert_same(moments, moments_of(x))
    assert moments.count == 5000
    assert moments.variance == pytest.approx(x.var(ddof=1), rel=1e-6)
    assert moments.standard_error == pytest.approx(x.std(ddof=1) / 5000**0.5, rel=1e-6)
    assert moments.skewness == pytest.approx(stats.skew(x), rel=1e-5)
    assert moments.kurtosis == pytest.approx(stats.kurtosis(x, fisher=False), rel=1e-5)


@pytest.mark.parametrize("cuts", [(1,), (64, 100, 101), (4999,)])
def test_pieces_merge_to_the_whole(cuts):
    ends = (*cuts, 5000)
    pieces = [rgrad.measure(cubed, KEY, b - a, start=a) for a, b in zip((0, *cuts), ends, strict=True)]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    assert merged.count == 5000
    assert_same(merged, moments_of(draws(cubed, 0, 5000)))


@pytest.mark.parametrize("start", [2**31 - 500, 2**32 - 500, 2**32 + 7, 2**40 - 1])
def test_counters_do_not_overflow(start):
    """Replicates on both sides of 2^31 and 2^32 are the right ones, and none is repeated."""
    assert_same(rgrad.measure(cubed, KEY, 1000, start=start), moments_of(draws(cubed, start, 1000)))
    assert len(set(draws(cubed, start, 1000))) > 990


def test_counts_past_32_bits_merge():
    a = rgrad.measure(cubed, KEY, 1000)._replace(count=np.int64(3 * 10**9))
    for _ in range(3):
        a = a.merge(a)
    assert a.count == 24 * 10**9
    assert_same(a, moments_of(draws(cubed, 0, 1000)))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
def test_no_scale_or_offset_loses_digits(scale, offset):
    """Powers of 1e30 overflow in 32 bits, powers of 1e-12 underflow, and 1000 standard deviations from zero cancel."""
    draw = lambda key: (jax.random.normal(key) + offset) * scale
    moments, truth = rgrad.measure(draw, KEY, 100_000), moments_of(draws(draw, 0, 100_000))
    for power, field in enumerate(
        FIELDS, 1
    ):  # the mean and the third moment are near zero, so compare them relative to the spread
        size = max(abs(truth[field]), scale**power)
        assert abs(getattr(moments, field) - truth[field]) <= 1e-6 * size, field
    assert moments.kurtosis == pytest.approx(3, abs=0.1)


def test_sums_are_compensated():
    """One lane adds 200,000 powers one by one. Plain 32-bit sums would be off by 1e-5 or more."""
    draw = lambda key: jnp.abs(jax.random.normal(key))
    moments = rgrad.measure(draw, KEY, 200_000, batch=1)
    assert_same(moments, moments_of(draws(draw, 0, 200_000)), rtol=5e-7)


def test_a_first_batch_unlike_the_rest():
    """The shift and scale come from the first batch, which here is one draw. The first hundred draws are constant."""
    rare = lambda key: jnp.where(jax.random.uniform(key) < 0.999, 0.0, 100.0 * jax.random.normal(key))
    assert_same(rgrad.measure(rare, KEY, 20_000, batch=1), moments_of(draws(rare, 0, 20_000)))


SIZES, COMMONS = (1e-25, 1e20, 3e37), (0.0, 1.0, 1e-20)


@cache
def rare_values(batch):
    """The moments of every size (rows) beside every common size (columns), and the draws. One program for all."""
    size, common = jnp.array(SIZES)[:, None], jnp.array(COMMONS)
    rare = lambda key: jnp.where(jax.random.uniform(key) < 0.02, size, common) * jax.random.uniform(key, minval=0.5)
    return rgrad.measure(rare, KEY, 3000, batch=batch), draws(rare, 0, 3000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("common", COMMONS)
def test_rare_values_of_another_size_altogether(size, common):
    """Powers of (rare size / common size) are far beyond 32 bits, whenever the rare values occur."""
    if size < 1e-20 * common:
        pytest.skip("32 bits cannot tell the sum from the common value")
    of = SIZES.index(size), COMMONS.index(common)
    for batch in (1, 8, 1024):
        moments, x = rare_values(batch)
        truth = moments_of(x[:, *of])
        for power, field in enumerate(FIELDS, 1):
            value, error = truth[field], getattr(moments, field)[of] - truth[field]
            assert abs(error) <= 1e-6 * max(abs(value), truth["m2"] ** (power / 2)), (field, batch)
        assert moments.variance_interval()[0][of] > 0


def test_traced_moments_that_32_bits_cannot_hold_are_nan_not_zero():
    draw = lambda t, key: t * jax.random.normal(key)
    moments = jax.vmap(lambda t: rgrad.measure(partial(draw, t), KEY, 100))(jnp.array([1.0, 1e-25]))
    low, high = moments.variance_interval()
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([moments.variance[1], low[1], high[1]]).all()


def test_callables_of_any_kind():
    class Draw:
        __hash__ = None

        def __call__(self, key):
            return jax.random.normal(key)

    assert rgrad.measure(Draw(), KEY, 10).mean == rgrad.measure(jax.random.normal, KEY, 10).mean
    with pytest.raises(TypeError, match="draw returned nothing to measure"):
        rgrad.measure(lambda key: {}, KEY, 10)


def test_constants_have_no_variance():
    moments = rgrad.measure(lambda key: jnp.array([4.0, 0.0, 1e-20]), KEY, 1000)
    np.testing.assert_array_equal(moments.mean, np.array([4.0, 0.0, 1e-20], np.float32))
    np.testing.assert_array_equal(moments.variance, 0.0)
    for bound in moments.variance_interval():
        np.testing.assert_array_equal(bound, 0.0)
    assert np.isnan(moments.kurtosis).all()


def test_integers_beyond_the_floats():
    """Against NumPy in 64 bits on the same draws. Near two billion only every 128th integer is a 32-bit float."""
    draw = lambda key: {
        "2^26": 2**26 + jax.random.randint(key, (), 0, 2),
        "2e9": jax.random.randint(key, (2,), 2_000_000_000, 2_000_000_010),
        "far apart": jnp.where(jax.random.bernoulli(key), 2**31 - 1, -(2**31)),
        "all bits": jax.random.bits(key),
        "small": jax.random.bits(key, dtype=jnp.uint8),
        "float": 3 + jax.random.normal(key),
    }
    keys = jax.vmap(lambda r: jax.random.fold_in(jax.random.fold_in(KEY, 0), r))(jnp.arange(7, 1007, dtype=jnp.uint32))
    x = jax.tree.map(lambda a: np.asarray(a, np.float64), jax.jit(jax.vmap(draw))(keys))
    moments = rgrad.measure(draw, KEY, 1000, start=7)
    for name in x:
        truth = moments_of(x[name])
        np.testing.assert_allclose(moments.mean[name], truth["mean"], rtol=1e-14, atol=1e-7 * x[name].std())
        np.testing.assert_allclose(moments.variance[name], x[name].var(0, ddof=1), rtol=1e-6)
        np.testing.assert_allclose(moments.m4[name], truth["m4"], rtol=1e-5)


def test_near_the_largest_float():
    """Near 3.4e38: the squared spread is 3.5e75, and the difference of two draws may exceed the largest float."""
    draw = lambda key: jnp.stack([
        6e37 * jax.random.normal(key), 1e38 * jnp.clip(jax.random.normal(key), -3, 3),
        jnp.where(jax.random.bernoulli(key, 0.3), 3.3e38, -3.3e38), 1e-37 * jax.random.normal(key),
    ])  # fmt: skip
    moments, truth = rgrad.measure(draw, KEY, 1000, batch=16), moments_of(draws(draw, 0, 1000))
    for power, field in enumerate(FIELDS, 1):
        size = truth["m2"] ** (power / 2)
        np.testing.assert_allclose(getattr(moments, field) / size, truth[field] / size, rtol=1e-5, atol=1e-6)
    assert np.all(moments.interval()[0] < moments.interval()[1])


def test_an_interval_has_no_width_only_if_nothing_depends_on_the_key():
    """1,000 equal draws do not exclude rarer values. For numbers that can only be 0 or 1, the rule of three applies."""
    n, rare = 1000, 1 - 0.05 ** (1 / 1000)
    assert rare == pytest.approx(3 / n, rel=0.004)

    def draw(key):
        x = jax.random.normal(key)
        loop = jax.lax.scan(lambda c, r: ((c[0] + r, c[1] * x), c[1]), (0.25, x), jnp.arange(3.0))[0]
        known = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + 0.1, c[2] * x), (0, 0.1, x))[1]
        return {
            "constant": {
                "one": 0.1,
                "scan": loop[0],
                "while": known,
                "cond": jax.lax.cond(known > 9, lambda: 1.0, lambda: 0.1),
            },
            "unseen": (x > 6, jnp.where(x > 6, 1.0, 0.0), 1.0 * (x > 6), ((x > 6) & (x < 7)).astype(int)[None].max()),
            "always": (x < 6, jnp.where(x[None] > 6, jnp.zeros(1), jnp.ones(1))[0]),
            "unknown": (x * (x > 6), jnp.where(x > 6, 7.0, 0.1), 1e10 + x, jnp.where(x > 6, 2, 1), (0 * x)),
            "cond": jax.lax.cond(x > 6, lambda: 1.7, lambda: 0.1),
        }

    alone = rgrad.measure(draw, KEY, n)
    halves = rgrad.measure(draw, KEY, n // 2).merge(rgrad.measure(draw, KEY, n // 2, start=n // 2))
    with pytest.raises(ValueError, match=r"Moments.merge: one call returned shapes .* merge moments of the same call"):
        alone.merge(rgrad.measure(cubed, KEY, n))
    traced = jax.jit(lambda: rgrad.measure(draw, KEY, n))()
    for moments in (alone, halves, traced):
        (low, high), (least, most) = moments.interval(), moments.variance_interval()
        of = lambda name, tree: np.array(jax.tree.leaves(tree[name]), float)
        np.testing.assert_array_equal(of("constant", low), of("constant", high))
        np.testing.assert_allclose(of("constant", low), [0.1, 0.1, 3.25, 0.4], rtol=1e-6)
        np.testing.assert_array_equal(of("constant", most), 0.0)
        for name, lowest, highest in (("unseen", 0, rare), ("always", 1 - rare, 1)):
            np.testing.assert_allclose(of(name, low), lowest, rtol=1e-5)
            np.testing.assert_allclose(of(name, high), highest, rtol=1e-5)
            np.testing.assert_array_equal(of(name, least), 0.0)
            np.testing.assert_allclose(of(name, most), rare * (1 - rare), rtol=1e-5)
        for name in ("unknown", "cond"):
            assert not of(name, moments.variance).any()
            for bound in (low, high, least, most):
                assert np.isnan(of(name, bound)).all(), name


def test_a_callback_may_draw_numbers_of_its_own():
    """The trace does not show that its result depends on the key."""
    draw = lambda key: jax.pure_callback(lambda: np.float32(0.5), jax.ShapeDtypeStruct((), jnp.float32))
    assert np.isnan(rgrad.measure(draw, KEY, 10).interval()).all()


def test_pytrees_vmap_and_jit():
    draw = lambda t, key: {
        "a": t * jax.random.normal(key),
        "b": (jax.random.normal(key, (3,)), jax.random.bernoulli(key)),
    }
    thetas = jnp.array([1.0, 2.0, 4.0])
    mapped = jax.jit(jax.vmap(lambda t: rgrad.measure(partial(draw, t), KEY, 500)))(thetas)
    alone = [rgrad.measure(partial(draw, t), KEY, 500) for t in thetas]
    assert mapped.variance["b"][0].shape == (3, 3)
    for i, one in enumerate(alone):
        for mine, theirs in zip(jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(mine[i], theirs, rtol=1e-4, atol=1e-6)
        low, high = mapped.variance_interval()
        np.testing.assert_allclose(high["a"][i], one.variance_interval()[1]["a"], rtol=1e-4)
        assert low["a"][i] < mapped.variance["a"][i] < high["a"][i]
    twice = jax.jit(lambda m: m.merge(m))(mapped)
    np.testing.assert_allclose(twice.m4["a"], mapped.m4["a"], rtol=1e-5)
    assert mapped.merge(mapped).count.tolist() == [1000] * 3


def test_traced_or_not_the_moments_are_the_same():
    """Outside all traces the program is compiled with our own options. JAX refuses these inside another trace."""
    draw = lambda t, key: jax.grad(
        lambda t: rgrad.expect(jnp.square, dist.Normal(t, 1.0), key, 7, rgrad.score_function)
    )(t)
    alone = rgrad.measure(partial(draw, 2.0), KEY, 500)
    within = lambda t: rgrad.measure(partial(draw, t), KEY, 500)
    for moments in (jax.jit(lambda: within(2.0))(), jax.jvp(within, (2.0,), (1.0,))[0]):
        assert moments.mean == pytest.approx(alone.mean, rel=1e-5)
        assert moments.m4 == pytest.approx(alone.m4, rel=1e-4)


@pytest.mark.parametrize("cores", [1, 2, 3, 7])
def test_the_pieces_of_the_cores_cover_everything(cores, monkeypatch):
    """Each replicate is in exactly one piece. Pieces are whole batches except at both ends. One loop gives the same."""
    monkeypatch.setattr(streaming, "CORES", cores)
    first = lambda key: jax.random.key_data(key)[0]
    cases = [(0, 5, 64), (0, 64, 64), (5, 200, 64), (60, 9, 64), (0, 1000, 1), (2**32 - 70, 500, 32)]
    for start, count, batch in cases:
        pieces = streaming.power_sums_by_core(first, KEY, start, start + count, batch)
        assert sum(size for _, size in pieces) == count
        assert len(pieces) <= cores
        assert all(size > 0 for _, size in pieces)
        moments = rgrad.measure(cubed, KEY, count, start=start, batch=batch)
        assert_same(moments, moments_of(draws(cubed, start, count)), rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it tests the threads of the CPU")
def test_settings_of_jax_hold_in_every_piece(monkeypatch):
    """64 bits in a context apply only to the calling thread."""
    monkeypatch.setattr(streaming, "CORES", 3)
    with jax.enable_x64(True):
        moments = rgrad.measure(lambda key: jnp.float64(1) + jax.random.key_data(key)[0] * 1e-12, KEY, 999)
    assert 1 < moments.mean < 1.005
    assert 0 < moments.variance < 1e-4
    assert moments.mean != np.float32(moments.mean)


LIFE = """
import atexit, threading, time, jax, rgrad
key, draw = jax.random.key(0), lambda key: jax.random.normal(key)
within = jax.jit(lambda key: rgrad.measure(draw, key, 100_000).mean)(key)  # rgrad is imported here, while jit traces
mean = lambda: rgrad.measure(draw, key, 100_000).mean
assert abs(mean() - within) < 1e-7 and rgrad.measurement.streaming.nothing_traced() == jax.extend.core.get_opaque_trace_state(convention="flax")
atexit.register(lambda: print("at the end", float(mean())))
later = lambda: (time.sleep(0.3), print("after the main thread", float(mean())))
threading.Thread(target=later).start()
print("now", float(mean()))
"""


def test_from_the_first_use_to_the_last():
    """The first use is while something is traced. The last is when Python is shutting down and starts no threads."""
    # Without the tests' compilation cache: reading it may print warnings.
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", LIFE], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = {line.rsplit(" ", 1)[1] for line in done.stdout.splitlines()}
    assert len(done.stdout.splitlines()) == 3
    assert len(said) == 1


def test_what_is_not_finite_is_counted_and_never_hidden():
    draw = lambda key: jnp.stack([jnp.log(jax.random.normal(key)), 1 / jnp.floor(3 * jax.random.uniform(key)), 1.0])
    moments = rgrad.measure(draw, KEY, 1000).merge(rgrad.measure(draw, KEY, 1000, start=1000))
    truth = (~np.isfinite(draws(draw, 0, 2000))).sum(0)
    assert truth[0] > 500
    np.testing.assert_array_equal(moments.nonfinite, truth)
    np.testing.assert_array_equal(np.isnan(moments.mean), [True, True, False])
    np.testing.assert_array_equal(np.isnan(moments.variance), [True, True, False])


def test_one_program_whatever_the_replicates():
    traces = []

    def draw(key):
        traces.append(1)
        return jax.random.normal(key)

    rgrad.measure(draw, KEY, 10)
    first = len(traces)
    for replicates, start in ((1000, 0), (100_000, 5), (3, 2**33)):
        rgrad.measure(draw, jax.random.key(9), replicates, start=start)
    assert len(traces) == first


def test_intervals_are_the_textbook_ones_for_a_normal():
    """Student's t and chi-squared if the kurtosis is exactly 3. The quantiles are approximations, accurate to 1e-3."""
    for n in (5, 20, 1000):
        moments = rgrad.Moments(np.int64(n), *(np.float64(x) for x in (1.0, 2.0, 0.0, 12.0)), np.int64(0))
        for level in (0.5, 0.95, 0.999):
            low, high = moments.interval(level)
            if n > 5:
                traced = jax.jit(lambda m: m.interval(level))(moments)
                assert (traced[0], traced[1]) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))
            want = stats.t.interval(level, n - 1, 1.0, (2.0 / (n - 1)) ** 0.5)
            assert (low, high) == pytest.approx(want, rel=1e-9)
    low, high = moments.variance_interval()
    freedom = float(moments.variance_freedom)
    assert freedom == pytest.approx(999, rel=0.01)
    s2 = 2.0 * 1000 / 999
    assert (low, high) == pytest.approx(
        (freedom * s2 / stats.chi2.ppf(0.975, freedom), freedom * s2 / stats.chi2.ppf(0.025, freedom)), rel=1e-3
    )


def test_few_replicates():
    one, three = rgrad.measure(cubed, KEY, 1), rgrad.measure(cubed, KEY, 3)
    assert one.mean == pytest.approx(draws(cubed, 0, 1)[0], rel=1e-6)
    assert np.isnan(one.variance)
    assert np.isnan(one.interval()).all()
    assert three.variance == pytest.approx(draws(cubed, 0, 3).var(ddof=1), rel=1e-6)
    assert np.isnan(three.variance_interval()).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"replicates": 0}, ValueError, "measure: needs replicates >= 1, .* got replicates=0"),
        ({"replicates": 1e6}, TypeError, r"replicates must be a Python int .* got 1000000.0"),
        ({"replicates": 5, "start": -1}, ValueError, "start >= 0 .* start=-1"),
        ({"replicates": 5, "batch": 100}, ValueError, "batch must be a power of two, got 100"),
        ({"replicates": 5, "key": 0}, TypeError, "measure: key = 0 is not a PRNG key"),
        (
            {"replicates": 5, "key": jax.random.split(KEY, 2)},
            ValueError,
            r"measure: key has shape \(2,\); give one key",
        ),
    ],
)
def test_bad_input(options, error, match):
    with pytest.raises(error, match=match):
        rgrad.measure(cubed, **{"key": KEY, **options})
    with pytest.raises(ValueError, match=r"level must be between 0 and 1 .* got 95"):
        rgrad.measure(cubed, KEY, 10).interval(95)
    with pytest.raises(TypeError, match="draw must return real numbers"):
        rgrad.measure(lambda key: 1j * jax.random.normal(key), KEY, 10)


def coverage(repetitions, estimator, n, replicates, exact_mean, exact_variance):
    """The share of 95 % intervals of the mean and the variance that contain the truth, on the post's problem."""

    def draw(key):
        loss = lambda t: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, n, estimator)
        return jax.grad(loss)(2.0)

    def holds(key):
        moments = rgrad.measure(draw, key, replicates, batch=2048)
        (a, b), (c, d) = moments.interval(), moments.variance_interval()
        return jnp.stack([(a <= exact_mean) & (exact_mean <= b), (c <= exact_variance) & (exact_variance <= d)])

    return np.asarray(jax.jit(lambda keys: jax.lax.map(holds, keys))(jax.random.split(KEY, repetitions))).mean(0)


def check_coverage(repetitions):
    """The coverage is 95 +- 1 %, plus what chance can explain: 4.9 standard errors for these repetitions (1e-6)."""
    leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
    slack = 0.01 + 4.9 * (0.95 * 0.05 / repetitions) ** 0.5
    for estimator, variance in (
        (rgrad.score_function, 8.7),
        (leave_one_out, 4.2 + 34 / 90),
        (rgrad.reparameterized, 0.4),
    ):
        covered = coverage(repetitions, estimator, 10, 10_000, 4.0, variance)
        print(f"{estimator}: mean {covered[0]:.4f}, variance {covered[1]:.4f} of {repetitions} (slack {slack:.4f})")
        assert np.all(np.abs(covered - 0.95) <= slack), covered


def test_intervals_cover():
    """False failures: 1e-6 each. With 500 repetitions this catches a coverage of 85 % (z = 1.44, not 1.96) or less."""
    check_coverage(500)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_intervals_cover_within_one_percent():
    """The same with 20,000 repetitions of 10,000 replicates. Catches a coverage outside 95 +- 2.2 %."""
    check_coverage(20_000)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_billion_replicates_in_constant_memory():
    """Within 1e-6 of 64-bit moments of the same draws, with no more memory than for a million."""
    import resource

    draw = lambda key: (2 + jax.random.normal(key)) ** 2
    rgrad.measure(draw, KEY, 10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 10**9
    moments = rgrad.measure(draw, KEY, count)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 20_000, "kilobytes"
    assert moments.count == count

    make = jax.jit(
        lambda base: jax.vmap(lambda r: draw(jax.random.fold_in(jax.random.fold_in(KEY, 0), r)))(
            base + jnp.arange(2**22, dtype=jnp.uint32)
        )
    )
    sums = np.zeros(4)
    for base in range(0, count, 2**22):
        z = np.asarray(make(jnp.uint32(base)), np.float64)[: count - base] - 5.0
        square = z * z
        sums += [z.sum(), square.sum(), z @ square, square @ square]
    a1, a2, a3, a4 = sums / count
    truth = (5 + a1, a2 - a1**2, a3 - 3 * a1 * a2 + 2 * a1**3, a4 - 4 * a1 * a3 + 6 * a1**2 * a2 - 3 * a1**4)
    assert_same(moments, dict(zip(FIELDS, truth, strict=True)))
    print(
        {field: getattr(moments, field) / t - 1 for field, t in zip(FIELDS, truth, strict=True)},
        (after - before) / 1e3,
        "MB",
    )


class Accelerator:
    platform = "gpu"

    def __init__(self, memory):
        self.memory = memory

    def memory_stats(self):
        return self.memory and {"bytes_limit": self.memory}


def test_numbers_in_flight():
    """A GPU has more in flight, as far as its memory allows. The batch follows. The result does not depend on it."""
    assert in_flight() == IN_FLIGHT
    assert [in_flight(Accelerator(m)) for m in (None, 90e9, 8e9, 1e9)] == [2**26, 2**26, 2**24, 2**21]
    draw = lambda key: jax.random.normal(key, (10,)).mean()
    assert batch_for(draw, jax.random.key(0), IN_FLIGHT) == 2**16
    assert batch_for(draw, jax.random.key(0), 2**26) == 2**23
    large, small = (measure(draw, jax.random.key(0), 1000, batch=batch) for batch in (2**17, 2**6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), large, small)


def test_many_settings_under_vmap_take_the_memory_of_a_few():
    """10,000 settings of 400 replicates: compiled, they need less than 200 MB (4.4 MB for each setting before).

    With one level of `vmap`, with two, outside and inside `jit`, and for several keys, the moments are those of one setting.
    """

    def moments(theta, scale, key):
        q = lambda t: dist.Normal(t, scale)
        loss = lambda t, key: rgrad.expect(lambda x: x**2, q(t), key, 10, rgrad.score_function)
        return rgrad.measure(lambda key: jax.grad(loss)(theta, key), key, 400).variance

    many = jax.vmap(moments, (0, None, None))
    compiled = jax.jit(many).lower(jnp.linspace(-1, 1, 10_000), 1.0, KEY).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2e8
    thetas, scales, keys = jnp.linspace(-1, 1, 700), jnp.array([1.0, 2.0]), jax.random.split(KEY, 2)
    found = jax.jit(jax.vmap(jax.vmap(jax.jit(moments), (0, None, None)), (None, 0, 0)))(thetas, scales, keys)
    for i, j in ((0, 0), (1, 699), (1, 350)):
        np.testing.assert_allclose(found[i, j], moments(thetas[j], scales[i], keys[i]), rtol=1e-5)


def test_in_a_shard_map():
    """`measure` inside `jax.shard_map` with its checks of types, of values that vary over the mesh."""
    of = lambda theta: rgrad.measure(lambda key: theta * jax.random.normal(key), KEY, 100).variance
    mesh, spec = jax.sharding.Mesh(jax.devices()[:1], ("devices",)), jax.sharding.PartitionSpec("devices")
    mapped = jax.jit(jax.shard_map(jax.vmap(of), mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(jnp.array([1.0, 3.0])), [of(1.0), of(3.0)], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:measure")
def test_wide_calls_are_added_in_turn():
    """A call of 10,000 numbers: groups of 8 replicates and of 1 give the moments of 64 bits, also in pieces, with nan in one
    element of one replicate, and for a last group that is not full."""

    def draw(key):
        x = jax.random.normal(key, (10_000,))
        return {"x": 3.0 + x, "once": jnp.where(x[:1] > 2.0, jnp.nan, 1e-3 * x[:1])}

    replicates = 100
    calls = jax.jit(jax.vmap(lambda r: draw(jax.random.fold_in(jax.random.fold_in(KEY, 0), r))))(jnp.arange(replicates))
    x = np.asarray(calls["x"], np.float64)
    central = lambda k: ((x - x.mean(0)) ** k).mean(0)
    for moments in (
        measure(draw, KEY, replicates),
        measure(draw, KEY, replicates, batch=1),
        measure(draw, KEY, 37, batch=8).merge(measure(draw, KEY, replicates - 37, start=37)),
    ):
        np.testing.assert_allclose(moments.mean["x"], x.mean(0), rtol=1e-6)
        for k, m in ((2, moments.m2), (3, moments.m3), (4, moments.m4)):
            np.testing.assert_allclose(m["x"], central(k), rtol=1e-5, atol=1e-5)
        assert moments.nonfinite["once"] == np.isnan(calls["once"]).sum() > 0
        assert np.isnan(moments.mean["once"]).all()
        assert not moments.nonfinite["x"].any()
