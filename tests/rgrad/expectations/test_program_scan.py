"""`draw.scan`: gradients against enumeration, quadrature, closed forms and by hand; size; keys; errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from tests.calibration import assert_unbiased
from tests.exact_programs import exactly

KEY = jax.random.key(0)
T = jnp.array([0.4, -0.3])
SCORE, LOO = "score_function", "score_function+leave_one_out"
ELSEWHERE = partial(rgrad.score_function, baseline=lambda v: 0.5 * (v.sum() - v) / (v.size - 1))


def bits(t, draw, e):
    """Three dependent bits, with costs before and after each draw, in the scan and around it."""

    def step(draw, before, x):
        draw.cost(t[0] * before)
        b = draw(dist.Bernoulli(logits=t[0] - t[1] * before * x), e).astype(float)
        draw.cost(b * x - 2.0 * before)
        return b, b * x

    draw.cost(t[1] ** 2)
    last, each = draw.scan(step, 1.0, jnp.array([1.0, -0.5, 2.0]))
    draw.cost(3.0 * last)
    return each[0] * each[2] + t[1] * each[1]


def two_in_a_step(t, draw, e):
    """A Normal and a bit that depend on each other, in each of two steps."""

    def step(draw, before, _):
        x = draw(dist.Normal(t[0] * before, 1.0), e[0])
        draw.cost(jnp.sin(x))
        b = draw(dist.Bernoulli(logits=x + t[1]), e[1])
        return x * (1.0 + b), b

    last, b = draw.scan(step, 1.0, length=2)
    return last * b[0]


def draws_around(t, draw, e):
    """Other estimators before and after the scan, and another scan."""

    def step(draw, before, _):
        b = draw(dist.Bernoulli(logits=t[1] + before), e[1]).astype(float)
        draw.cost(before * b)
        return b, b

    a = draw(dist.Bernoulli(logits=t[0]), e[0])
    b, each = draw.scan(step, 1.0 * a, length=2, name="first")
    draw.cost(b * t[0])
    c = draw(dist.Bernoulli(logits=b - t[0]), e[2])
    d, _ = draw.scan(step, c * b, length=2, name="second")
    return (a + c) * d + each.sum() * t[1]


def scan_in_a_scan(t, draw, e):
    def inner(draw, before, x):
        b = draw(dist.Bernoulli(logits=t[0] * before + t[1] * x), e).astype(float)
        draw.cost(b * x)
        return b, b

    def outer(draw, before, x):
        first = draw(dist.Bernoulli(logits=before), SCORE)
        last, _ = draw.scan(inner, before * first, jnp.array([x, 1.0]))
        draw.cost(first * last * x)
        return last, None

    return draw.scan(outer, 1.0, jnp.array([0.5, -1.0]))[0]


def critic(t, draw, e):
    """A baseline that is a number and uses the carry and the parameters, but not its own draw."""

    def step(draw, before, x):
        number = rgrad.independent(3.0 + before) if e == "independent" else 3.0 + before * t[0]
        b = draw(dist.Bernoulli(logits=t[0] + before), partial(rgrad.score_function, baseline=number)).astype(float)
        draw.cost(5.0 * b * x)
        return b, None

    return draw.scan(step, 0.0, jnp.array([1.0, 2.0, t[1]]))[0]


PROGRAMS = {
    "bits": (bits, [SCORE, LOO, ELSEWHERE, partial(rgrad.score_function, baseline=1.5)]),
    "two_in_a_step": (two_in_a_step, [(None, None), (SCORE, SCORE), (LOO, SCORE)]),
    "draws_around": (
        draws_around,
        [
            ("enumerated", LOO, "enumerated"),
            (LOO, LOO, "disarm"),
            ("measure_valued", SCORE, SCORE),
            (LOO, SCORE, "rebar"),
        ],
    ),
    "scan_in_a_scan": (scan_in_a_scan, [SCORE, LOO]),
    "critic": (critic, [None, "independent"]),
}


def of(program, n=2, key=KEY):
    return lambda t: rgrad.expect_program(lambda draw: program(t, draw), key, n)


SLOW = {"draws_around", "scan_in_a_scan", "bits", "two_in_a_step"}  # the others have their parts


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW else n for n in PROGRAMS])
def test_unbiased(name):
    """Values and gradients. False failures: one in a million; a bias of 0.1 is caught, of derivatives from 0.21 to 3.7."""
    program, choices = PROGRAMS[name]
    with jax.enable_x64(True):
        exact = lambda t: exactly(lambda draw: program(t, draw, choices[0]))
        truth = jax.tree.map(np.asarray, jax.value_and_grad(exact)(T.astype(float)))
    draw = lambda key: [jax.value_and_grad(of(partial(program, e=e), 3, key))(T) for e in choices]
    assert_unbiased(draw, [truth] * len(choices), smallest_bias=0.1, replicates=300_000)


@pytest.mark.parametrize("e", [LOO, ELSEWHERE], ids=["leave_one_out", "a function"])
@pytest.mark.long
def test_hessians(e):
    """False failures: one in a million; a bias of 0.14 is caught, of second derivatives between 0.31 and 0.52."""
    with jax.enable_x64(True):
        truth = jax.hessian(lambda t: exactly(lambda draw: bits(t, draw, SCORE)))(T.astype(float))
    draw = lambda key: jax.hessian(of(partial(bits, e=e), 3, key))(T)
    assert_unbiased(draw, np.asarray(truth), smallest_bias=0.14, replicates=500_000)


def test_the_numbers_by_hand():
    """Of the same keys: rewards to go, less their means in the other particles. Costs before a draw are not charged."""
    length, n = 6, 5

    def program(t, draw):
        def step(draw, x, scale):
            draw.cost(7.0 * x)
            x = draw(dist.Normal(0.5 * x + t, 1.0), LOO)
            draw.cost(scale * x**2)
            return x, x

        last, path = draw.scan(step, 1.0, jnp.arange(1.0, length + 1))
        return jnp.cos(last) + path.sum()

    def by_hand(t):
        def one(key):
            x, before, after, scores, path = 1.0, [], [], [], 0.0
            for i in range(length):
                before.append(7.0 * x)
                mean = 0.5 * x + t
                own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 0), i), 0)
                x = jax.lax.stop_gradient(mean + rgrad.noise.normal(own, (1,))[0])
                after.append((i + 1) * x**2)
                scores.append(-0.5 * (x - mean) ** 2)
                path = path + x
            after[-1] = after[-1] + jnp.cos(x) + path
            before, after = jnp.stack(before), jnp.stack(after)
            to_go = jnp.cumsum((after + jnp.append(before[1:], 0.0))[::-1])[::-1]
            return (before + after).sum(), to_go, jnp.stack(scores)

        total, to_go, scores = jax.vmap(one)(jax.random.split(KEY, n))
        centred = to_go - (to_go.sum(0) - to_go) / (n - 1)
        return (total + (centred * (scores - jax.lax.stop_gradient(scores))).sum(1)).mean()

    ours, theirs = (jax.value_and_grad(f)(0.3) for f in (of(program, n), by_hand))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_thousand_steps():
    """x_t = 0.5 x_{t-1} + theta + e_t: the mean over t of the expectation of x_t, and its derivative.

    False failures: one in a million; a relative bias of 0.15 is caught. By leave-one-out with costs to go, the standard
    deviation is near that of the expectation itself; if all costs were charged, it would grow with the root of T.
    """
    length = 1_000

    def program(t, draw, e):
        def step(draw, x, _):
            x = draw(dist.Normal(0.5 * x + t, 1.0), e)
            draw.cost(x / length)
            return x, None

        draw.scan(step, 0.0, length=length)
        return 0.0

    slope = np.mean([sum(0.5**k for k in range(t + 1)) for t in range(length)])
    draw = lambda key: [jax.value_and_grad(of(partial(program, e=e), 4, key))(1.0) for e in (LOO, "reparameterized")]
    assert_unbiased(draw, [(slope, slope)] * 2, smallest_bias=0.3, replicates=2_000)


def count(jaxpr):
    """The equations of a jaxpr, including those of inner jaxprs."""
    inner = [
        v
        for eqn in jaxpr.eqns
        for v in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr"))
    ]
    return len(jaxpr.eqns) + sum(count(getattr(v.jaxpr, "jaxpr", v.jaxpr)) for v in inner if hasattr(v, "jaxpr"))


def test_the_size_does_not_grow_with_the_number_of_steps():
    calls = []

    def program(t, draw, length):
        def step(draw, x, _):
            calls.append(1)
            x = draw(dist.Normal(0.5 * x + t, 1.0), LOO)
            draw.cost(x**2)
            return x, None

        return draw.scan(step, 0.0, length=length)[0]

    sizes = []
    for length in (3, 1_000):
        sizes.append(count(jax.make_jaxpr(jax.grad(of(partial(program, length=length))))(0.3).jaxpr))
    assert sizes[0] == sizes[1] < 2_000
    assert len(calls) <= 4


def test_each_draw_of_each_step_has_a_key_of_its_own():
    def program(draw):
        def step(draw, carry, _):
            x, y = draw(dist.Normal(0.0, 1.0)), draw(dist.Normal(0.0, 1.0))
            _, z = draw.scan(lambda draw, c, _: (c, draw(dist.Normal(0.0, 1.0))), 0.0, length=2)
            noise = jnp.stack([jax.random.normal(draw.key()), jax.random.normal(draw.key())])
            return carry, jnp.concatenate([jnp.stack([x, y]), z, noise])

        first = draw(dist.Normal(0.0, 1.0))
        _, one = draw.scan(step, 0.0, length=3)
        _, two = draw.scan(step, 0.0, length=3)
        seen.append(jnp.concatenate([first[None], one.ravel(), two.ravel(), jax.random.normal(draw.key())[None]]))
        return 0.0

    seen = []
    rgrad.trace_program(program, KEY)
    assert len(np.unique(np.asarray(seen[0]))) == seen[0].size == 38


@pytest.mark.long
def test_all_transformations_around_it():
    loss = of(partial(bits, e=LOO), 3)
    value, slope = jax.value_and_grad(loss)(T)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(T), slope, rtol=1e-4)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(jnp.stack([T, T]))[1], slope, rtol=1e-4)
    np.testing.assert_allclose(jax.jvp(loss, (T,), (jnp.ones(2),))[1], slope.sum(), rtol=1e-4)
    with jax.disable_jit():
        np.testing.assert_allclose(jax.value_and_grad(loss)(T)[1], slope, rtol=1e-4)
    with jax.enable_x64(True):
        assert loss(T.astype(float)).dtype == jnp.float64
    with jax.checking_leaks():
        jax.grad(loss)(T)
    assert value.shape == ()


def test_print_of_a_trace():
    def program(draw):
        def step(draw, x, y):
            x = draw(dist.Normal(x, 1.0), name="x")
            b = draw(dist.Bernoulli(logits=x))
            draw.cost(b * y)
            return x, x

        last, path = draw.scan(step, 5.0, jnp.arange(3.0), name="walk")
        seen.append(path)
        return draw(dist.Normal(last, 1.0))

    seen = []
    trace = rgrad.trace_program(program, KEY, n=2)
    assert [site.name for site in trace.sites] == ["walk.x", "walk.draw 1", "draw 1"]
    assert [site.estimator for site in trace.sites] == ["reparameterized", LOO, "reparameterized"]
    x, b, last = (site.value for site in trace.sites)
    np.testing.assert_array_equal(x, seen[0])
    assert b.shape == (3,)
    assert trace.sites[0].distribution.loc == 5.0
    np.testing.assert_allclose(trace.cost, (b * jnp.arange(3.0)).sum() + last, rtol=1e-6)
    assert str(trace).splitlines()[1].split()[:3] == ["walk.x", "Normal", "reparameterized"]
    assert rgrad.trace_program(lambda draw: draw.scan(lambda d, c, x: (c, None), 1.0, length=2)[0], KEY).sites == ()


def test_large_counts_are_floats():
    def program(t, draw):
        step = lambda draw, c, _: (c + draw(dist.Poisson(t), SCORE) ** 2, None)
        return draw.scan(step, 0.0, length=3)[0]

    assert abs(of(program, 50)(5e4) / 7.5e9 - 1) < 0.01
    small = lambda draw, c, _: (c + draw(dist.Bernoulli(0.5)), None)  # bits stay integers
    assert rgrad.expect_program(lambda draw: draw.scan(small, 0, length=3)[0], KEY, 2).shape == ()


NORMAL, BIT = dist.Normal(0.0, 1.0), dist.Bernoulli(0.3)
of_step = lambda f, **options: (
    lambda draw: draw.scan(lambda d, c, x: (c + f(d, c), None), 0.0, **{"length": 3, **options})[0]
)
MANY = "evaluates the rest of the program itself.*; use reparameterized, or score_function .* or write a Python loop"
BAD = {
    "enumerated": (of_step(lambda d, c: d(BIT, "enumerated", "b")), ValueError, "draw.scan: 'b' in 'scan 0': enumerated " + MANY),
    "measure_valued": (of_step(lambda d, c: d(NORMAL, "measure_valued")), ValueError, "measure_valued " + MANY),
    "control variate": (of_step(lambda d, c: d(NORMAL, "score_function+delta")), ValueError, r"score_function\+delta " + MANY),
    "of one's own": (of_step(lambda d, c: d(NORMAL, lambda f, q, key, n: f(0.0)[None])), ValueError, MANY),
    "no rsample": (of_step(lambda d, c: d(BIT, "reparameterized")), TypeError, "Bernoulli has none; use score_function"),
    "average": (of_step(lambda d, c: d(BIT, partial(rgrad.score_function, baseline=rgrad.moving_average()))), ValueError, "average.value"),
    "own value": (of_step(lambda d, c: d(BIT, partial(rgrad.score_function, baseline=lambda v: v))), ValueError, "uses value 0 itself"),
    "closes over the step": (of_step(lambda d, c: d(BIT, partial(rgrad.score_function, baseline=lambda v: c))), ValueError,
                             "draw.scan: a baseline is a function that uses a value of its step"),
    "outer draw": (lambda draw: draw.scan(lambda d, c, x: (draw(NORMAL), None), 0.0, length=3)[0], ValueError, "with the draw that its body receives"),
    "outer cost": (lambda draw: draw.scan(lambda d, c, x: (draw.cost(c) or c, None), 0.0, length=3)[0], ValueError, "with the draw that its body receives"),
    "in jit": (lambda draw: jax.jit(lambda: draw.scan(lambda d, c, x: (c, x), 0.0, length=3)[0])(), ValueError, r"draw.scan\(name='scan 0'\): this is inside"),
    "vmap in a step": (of_step(lambda d, c: jax.vmap(lambda m: d(dist.Normal(m, 1.0)))(jnp.ones(2)).sum()), ValueError, "this is inside"),
    "no length": (of_step(lambda d, c: d(NORMAL), length=None), ValueError, "draw.scan: the number of steps is unknown; pass xs, or length"),
    "scalar xs": (of_step(lambda d, c: d(NORMAL), xs=1.0), ValueError, "draw.scan: xs has a scalar"),
    "lengths": (of_step(lambda d, c: d(NORMAL), xs=jnp.ones(2)), ValueError, "length"),
    "not a pair": (lambda draw: draw.scan(lambda d, c, x: c, 0.0, length=3)[0], TypeError, r"body must return a pair \(carry, y\)"),
    "not callable": (lambda draw: draw.scan(3, 0.0, length=3)[0], TypeError, "draw.scan: body must be callable, got int 3"),
    "vector cost": (of_step(lambda d, c: d.cost(jnp.ones(2)) or 0.0), ValueError, "draw.cost: value must be a scalar"),
    "names in a step": (of_step(lambda d, c: d(NORMAL, name="x") + d(NORMAL, name="x")), ValueError, "two draws are named 'x'"),
    "names": (lambda draw: [draw.scan(lambda d, c, x: (c, x), 0.0, length=3, name="x") for _ in "12"], ValueError, "two draws are named 'x'"),
    "batch": (of_step(lambda d, c: d(dist.Normal(jnp.zeros(2), 1.0))), ValueError, r"batch_shape \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_scans(name):
    program, error, match = BAD[name]
    with pytest.raises(error, match=match):
        rgrad.expect_program(program, KEY, 4)


def test_bad_scans_in_a_trace():
    for name in ("enumerated", "outer draw"):
        program, error, match = BAD[name]
        with pytest.raises(error, match=match):
            rgrad.trace_program(program, KEY)


def test_the_support_must_not_move():
    program = lambda t, draw: draw.scan(lambda d, c, x: (c + d(dist.Uniform(0.0, t), SCORE), None), 0.0, length=3)[0]
    with pytest.raises(NotImplementedError, match="score_function"):
        jax.grad(of(program))(1.0)


def test_a_density_that_is_not_finite_gives_nan():
    class WithoutDensity(dist.Normal):
        def log_prob(self, value, intermediates=None):
            return jnp.where(value > 0, jnp.nan, 1.0) * super().log_prob(value)

    program = lambda t, draw: draw.scan(lambda d, c, x: (c + d(WithoutDensity(t, 1.0), SCORE), None), 0.0, length=3)[0]
    loss = of(program)
    assert jnp.isnan(jax.grad(loss)(1.0))
    assert jnp.isnan(jnp.stack(jax.jvp(loss, (1.0,), (1.0,)))).all()
