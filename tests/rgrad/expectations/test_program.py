"""Stochastic programs: gradients against enumeration and quadrature, for every pair of estimators; cost; errors."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad
from tests.calibration import assert_unbiased
from tests.exact_programs import exactly

KEY = jax.random.key(0)
T = jnp.array([0.4, -0.3])


def programs():
    """Name to `(program of (theta, draw, estimators), kinds of its draws)`. Estimators are given draw by draw."""

    def continuous_then_discrete(t, draw, e):
        x = draw(dist.Normal(t[0], 1.0), e[0])
        b = draw(dist.Bernoulli(logits=x * t[1]), e[1])
        return (x - b) ** 2

    def discrete_then_continuous(t, draw, e):
        b = draw(dist.Bernoulli(logits=t[0]), e[0])
        x = draw(dist.Normal(t[1] + b, 0.5 + 0.5 * b), e[1])
        return jnp.sin(x) + b * x

    def chain(t, draw, e):
        x = draw(dist.Normal(t[0], 1.0), e[0])
        y = draw(dist.Normal(0.5 * x + t[1], 0.8), e[1])
        return jnp.cos(x) * y

    def tree(t, draw, e):
        x = draw(dist.Normal(t[0], 1.0), e[0])
        y = draw(dist.Normal(x + t[1], 0.5), e[1])
        b = draw(dist.Bernoulli(logits=x), e[2])
        return y * b + 0.1 * x**2

    def shared_parameter(t, draw, e):
        x = draw(dist.Normal(t[0], jnp.exp(t[1])), e[0])
        b = draw(dist.Bernoulli(logits=t[0] + t[1]), e[1])
        return x * b + t[0] * x

    def parameter_in_the_cost(t, draw, e):
        b = draw(dist.Bernoulli(logits=t[0]), e[0])
        x = draw(dist.Normal(b * t[1], 1.0), e[1])
        return (x - t[0]) ** 2 * (1 + t[1] * b)

    def costs_in_the_middle(t, draw, e):
        draw.cost(t[0] ** 2)
        x = draw(dist.Normal(t[0], 1.0), e[0])
        draw.cost(x**2 * t[1])
        b = draw(dist.Bernoulli(logits=x + t[1]), e[1])
        draw.cost(b * x)
        return -b

    def only_costs(t, draw, e):
        b = draw(dist.Bernoulli(logits=t[0]), e[0])
        draw.cost(3.0 * b)
        c = draw(dist.Bernoulli(logits=t[1] - b), e[1])
        draw.cost(2.0 * c)
        return 0.0

    def categories(t, draw, e):
        c = draw(dist.Categorical(logits=jnp.array([0.0, 1.0, -1.0]) * t[0]), e[0])
        x = draw(dist.Normal(jnp.array([-1.0, 0.5, 2.0])[c] + t[1], 1.0), e[1])
        return x * jnp.array([1.0, -0.5, 0.3])[c]

    def three_bits(t, draw, e):
        a = draw(dist.Bernoulli(logits=t[0]), e[0])
        b = draw(dist.Bernoulli(logits=t[1] + a), e[1])
        c = draw(dist.Bernoulli(logits=t[0] * b - a), e[2])
        return a * b + 2.0 * c - t[0] * b

    def nested(t, draw, e):
        """An expectation inside: of z x with z ~ N(t[1], 1), estimated from one sample."""
        x = draw(dist.Normal(t[0], 1.0), e[0])
        inner = t[1] * x if e[0] is None else rgrad.expect(lambda z: z * x, dist.Normal(t[1], 1.0), draw.key(), 1)
        b = draw(dist.Bernoulli(logits=x), e[1])
        return inner * b + x

    def four(t, draw, e):
        a = draw(dist.Bernoulli(logits=t[0]), e[0])
        x = draw(dist.Normal(t[1] * a, 1.0), e[1])
        b = draw(dist.Bernoulli(logits=x), e[2])
        draw.cost(x * b)
        y = draw(dist.Normal(x + b, 0.7), e[3])
        return 0.3 * y * a + jnp.sin(y)

    kinds = {"n": "continuous", "b": "bit", "c": "category"}
    of = lambda f, draws: (f, tuple(kinds[d] for d in draws))
    return {
        f.__name__: of(f, draws)
        for f, draws in [
            (continuous_then_discrete, "nb"), (discrete_then_continuous, "bn"), (chain, "nn"), (tree, "nnb"),
            (shared_parameter, "nb"), (parameter_in_the_cost, "bn"), (costs_in_the_middle, "nb"), (only_costs, "bb"),
            (categories, "cn"), (three_bits, "bbb"), (nested, "nb"), (four, "bnbn"),
        ]
    }  # fmt: skip


PROGRAMS = programs()
APPLY = {
    "continuous": (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
        "measure_valued",
        "generalized",
    ),
    "bit": ("enumerated", "score_function", "score_function+leave_one_out", "measure_valued", "arm", "disarm", "rebar"),
    "category": ("enumerated", "score_function", "score_function+leave_one_out"),
}


def choices(kinds):
    """Every combination of estimators. For more than two draws, every estimator of each draw, with others in turn."""
    options = [APPLY[kind] for kind in kinds]
    if len(kinds) == 2:
        return list(itertools.product(*options))
    longest = max(map(len, options))
    return [tuple(o[(i * (j + 1) + j) % len(o)] for j, o in enumerate(options)) for i in range(longest)] + [
        tuple(o[(k if j == i else i + j) % len(o)] for j, o in enumerate(options))
        for i in range(len(options))
        for k in range(len(options[i]))
    ]


def unbiased(name, chosen, n, smallest_bias, replicates):
    program, kinds = PROGRAMS[name]
    with jax.enable_x64(True):
        truth = jax.value_and_grad(lambda t: exactly(lambda draw: program(t, draw, (None,) * len(kinds))))(
            T.astype(jnp.float64)
        )
        truth = jax.tree.map(np.asarray, truth)

    def one(t, key, estimators):
        return rgrad.expect_program(lambda draw: program(t, draw, estimators), key, n)

    def draw(key):
        return [jax.value_and_grad(one)(T, key, estimators) for estimators in chosen]

    assert_unbiased(draw, [truth] * len(chosen), smallest_bias=smallest_bias, replicates=replicates)


IN_CI = {"continuous_then_discrete", "tree", "costs_in_the_middle"}


@pytest.mark.parametrize("name", [n if n in IN_CI else pytest.param(n, marks=pytest.mark.long) for n in PROGRAMS])
def test_unbiased(name):
    """Two combinations of estimators for each program. False failures: one in a million; a bias of 0.25 is caught."""
    every = choices(PROGRAMS[name][1])
    some = [every[i] for i in np.random.default_rng(len(name)).permutation(len(every))[:2]]
    unbiased(name, some, 2, 0.25, 20_000)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("name", PROGRAMS)
def test_unbiased_for_every_pair(name, n):
    every = choices(PROGRAMS[name][1])
    every = [e for e in every if n > 1 or "score_function+leave_one_out" not in e]
    for start in range(0, len(every), 12):
        unbiased(name, every[start : start + 12], n, 0.1, 200_000)


def bits_and_normal(t, draw, e=(None, None)):
    b = draw(dist.Bernoulli(logits=t[0]), e[0], name="b")
    x = draw(dist.Normal(t[1] + b, 1.0), e[1])
    return x**2 * (1 + b)


def of(program, n=2, key=KEY, estimator=None):
    return lambda t: rgrad.expect_program(lambda draw: program(t, draw), key, n, estimator)


@pytest.mark.long
def test_all_transformations_around_it():
    loss = of(bits_and_normal, 3)
    value, slope = jax.value_and_grad(loss)(T)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(T), slope, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(loss)))(jnp.stack([T, T]))[1], slope, rtol=1e-4)
    forward = jax.jit(lambda t: jax.jvp(loss, (t,), (jnp.ones(2),))[1])
    np.testing.assert_allclose(forward(T), slope.sum(), rtol=1e-4)
    assert jax.eval_shape(jax.hessian(loss), T).shape == (2, 2)
    fitted = rgrad.fit(lambda t, key: of(bits_and_normal, 4, key)(t), T, optax.adam(0.1), KEY, 20)
    assert not fitted.diverged
    with jax.enable_x64(True):
        assert of(bits_and_normal, 3)(T.astype(float)).dtype == jnp.float64
    assert value.shape == ()


def test_compared_as_a_loss():
    """`compare` takes it. With a cost far from 0, leave-one-out over the particles is far less noisy than none."""
    far = lambda t, draw, e: 9.0 + bits_and_normal(t, draw, (e, None))
    losses = {
        name: (lambda p, key, e=e: of(partial(far, e=e), 4, key)(p["t"]))
        for name, e in {"loo": None, "score": "score_function"}.items()
    }
    found = rgrad.compare(losses, params={"t": T}, key=KEY, budget=0.01, cost="operations")
    assert {row["estimator"] for row in found.rows} == set(losses)
    loo, score = (
        rgrad.measure(lambda key, loss=loss: jax.grad(loss)({"t": T}, key)["t"], KEY, 5_000).variance[0]
        for loss in losses.values()
    )
    assert 3 * loo < score  # each is known to 10 %


@pytest.mark.long
def test_hessians_are_right_to_every_order():
    """With estimators whose own Hessians are right. The others raise. False failures: one in a million."""
    with jax.enable_x64(True):
        truth = jax.hessian(lambda t: exactly(lambda draw: bits_and_normal(t, draw)))(T.astype(float))
    draw = lambda key: [
        jax.hessian(of(partial(bits_and_normal, e=e), 2, key))(T)
        for e in (("enumerated", "reparameterized"), ("score_function+leave_one_out", "score_function"))
    ]
    assert_unbiased(draw, [np.asarray(truth)] * 2, smallest_bias=0.4, replicates=100_000)
    with pytest.raises(NotImplementedError, match="disarm: its gradient is right to first order only"):
        jax.hessian(of(partial(bits_and_normal, e=("disarm", None))))(T)


def flops(compiled):
    found = compiled.cost_analysis()
    return (found[0] if isinstance(found, list) else found)["flops"]


def chain_of(length, estimator=None, calls=None):
    """The sum of x_i^2 over the steps of a chain of Normals."""

    def loss(t, key):
        def program(draw):
            x = 0.0
            for _ in range(length):
                x = draw(dist.Normal(0.9 * x + t, 1.0), estimator)
                draw.cost(x**2)
                if calls is not None:
                    calls.append(1)
            return 0.0

        return rgrad.expect_program(program, key, 100)

    return loss


def by_hand(length, estimator):
    """The same, as one writes it: the score of each step times the reward to go less its mean in the other particles."""

    def loss(t, key):
        def one(key):
            x, costs, scores = 0.0, [], []
            for i in range(length):
                mean = 0.9 * x + t
                x = mean + rgrad.noise.normal(jax.random.fold_in(key, i), (1,))[0]
                x = x if estimator == "reparameterized" else jax.lax.stop_gradient(x)
                costs.append(x**2)
                scores.append(-0.5 * (x - mean) ** 2)
            return jnp.stack(costs), jnp.stack(scores)

        costs, scores = jax.vmap(one)(jax.random.split(key, 100))
        if estimator == "reparameterized":
            return costs.sum(1).mean()
        to_go = jnp.cumsum(costs[:, ::-1], 1)[:, ::-1]
        others = (to_go.sum(0) - to_go) / 99 if estimator == "score_function+leave_one_out" else 0.0
        scored = (to_go - others) * scores
        return (costs.sum(1) + (scored - jax.lax.stop_gradient(scored)).sum(1)).mean()

    return loss


@pytest.mark.parametrize("length", [10, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "estimator",
    [
        "reparameterized",
        *(pytest.param(e, marks=pytest.mark.long) for e in ("score_function", "score_function+leave_one_out")),
    ],
)
def test_a_chain_costs_no_more_than_by_hand(estimator, length):
    """Within 1.3 times the operations, and the same numbers."""
    ours, theirs = (jax.value_and_grad(loss(length, estimator)) for loss in (chain_of, by_hand))
    ours, theirs = (jax.jit(f).lower(0.1, KEY).compile() for f in (ours, theirs))
    np.testing.assert_allclose(ours(0.1, KEY), theirs(0.1, KEY), rtol=1e-4)
    assert flops(ours) < 1.3 * flops(theirs)


@pytest.mark.parametrize(
    "estimator",
    ["reparameterized", "score_function", "score_function+leave_one_out", partial(rgrad.score_function, baseline=2.0)],
)
def test_draws_in_place_are_traced_once(estimator):
    for length in (2, 8):
        calls = []
        jax.eval_shape(jax.grad(chain_of(length, estimator, calls)), 0.1, KEY)
        assert len(calls) == length


def test_other_tracing_is_quadratic():
    """Draw i is replayed by the runs that have more values: T (T + 1) / 2 draws in all, of an estimator of one's own."""
    own = lambda f, q, key, n: rgrad.score_function(f, q, key, n)
    for length in (2, 4, 8):
        calls = []
        jax.eval_shape(jax.grad(chain_of(length, own, calls)), 0.1, KEY)
        assert len(calls) == length * (length + 1) // 2


@pytest.mark.parametrize("estimator", ["enumerated", "score_function", "measure_valued"])
def test_costs_after_the_last_draw_count(estimator):
    """By hand, without the `exactly` of this file."""

    def program(t, draw):
        draw.cost(10.0)
        b = draw(dist.Bernoulli(t), estimator)
        draw.cost(3.0 * b)
        draw.cost(100.0)
        return 1000.0

    value = of(program, 4)(jnp.array(0.5))
    assert (value - 1110.0) % 0.75 == 0
    assert 1110 <= value <= 1113
    if estimator == "enumerated":
        assert jax.value_and_grad(of(program))(jnp.array(0.5)) == (1111.5, 3.0)


def test_each_draw_has_its_own_key():
    """All values and all keys of two particles differ."""
    seen = []

    def program(draw):
        x = draw(dist.Normal(0.0, 1.0))
        k = draw.key()
        y = draw(dist.Normal(0.0, 1.0))
        seen.append(jnp.stack([x, y, jax.random.normal(k), jax.random.normal(draw.key())]))
        return x

    jax.vmap(lambda key: rgrad.expect_program(program, key, 1))(jax.random.split(KEY, 2))
    values = jax.vmap(lambda key: _values_of(program, key, seen))(jax.random.split(KEY, 2))
    assert len(np.unique(np.asarray(values))) == values.size


def _values_of(program, key, seen):
    seen.clear()
    trace = rgrad.trace_program(program, key)
    return jnp.concatenate([jnp.stack([site.value for site in trace.sites]), seen[-1][2:]])


def test_leave_one_out_is_over_the_particles():
    """For one bit: the same numbers as those of `expect` with the same samples."""
    f = lambda b: 3.0 * b + 1.0
    logits = jnp.array(0.4)

    def by_hand(a):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(jax.random.split(KEY, 6))
        b = jax.vmap(lambda key: dist.Bernoulli(logits=0.4).sample(key, (1,))[0])(keys)
        return rgrad.surrogate(
            f(b), rgrad.log_prob(dist.Bernoulli(logits=a).expand((6,)), b), rgrad.leave_one_out
        ).mean()

    loss = lambda a: rgrad.expect_program(lambda draw: f(draw(dist.Bernoulli(logits=a))), KEY, 6)
    np.testing.assert_allclose(jax.value_and_grad(loss)(logits), jax.value_and_grad(by_hand)(logits), rtol=1e-5)


def test_print_of_a_trace():
    def program(draw):
        x = draw(dist.Normal(0.7, 1.0), name="x")
        draw.cost(x**2)
        b = draw(dist.Bernoulli(logits=x))
        return b - x

    trace = rgrad.trace_program(program, KEY, n=2)
    assert [site.name for site in trace.sites] == ["x", "draw 1"]
    assert [site.estimator for site in trace.sites] == ["reparameterized", "score_function+leave_one_out"]
    x, b = (site.value for site in trace.sites)
    np.testing.assert_allclose(trace.cost, x**2 + b - x, rtol=1e-6)
    lines = str(trace).splitlines()
    assert lines[0].split() == ["draw", "distribution", "estimator", "value"]
    assert lines[1].split()[:3] == ["x", "Normal", "reparameterized"]
    assert lines[-1].startswith("cost: ")


NORMAL, BIT = dist.Normal(0.0, 1.0), dist.Bernoulli(0.3)
INSIDE = r"inside a JAX transformation .* use a Python loop, draw.scan \(with .* or one event"
BAD = {
    "vmap": (lambda draw: jax.vmap(lambda m: draw(dist.Normal(m, 1.0)))(jnp.ones(2)).sum(), ValueError, INSIDE),
    "jit": (lambda draw: jax.jit(lambda: draw(NORMAL))(), ValueError, INSIDE),
    "scan": (lambda draw: jax.lax.scan(lambda c, _: (draw(NORMAL), None), 0.0, length=3)[0], ValueError, INSIDE),
    "cond": (lambda draw: jax.lax.cond(draw(BIT) > 0, lambda: draw(NORMAL), lambda: 0.0), ValueError, INSIDE),
    "grad": (lambda draw: jax.grad(lambda m: draw(dist.Normal(m, 1.0)))(0.0), ValueError, INSIDE),
    "checkpoint": (lambda draw: jax.checkpoint(lambda m: draw(dist.Normal(m, 1.0)))(0.0), ValueError, INSIDE),
    "cost in jit": (lambda draw: jax.jit(lambda: draw.cost(1.0) or 0.0)(), ValueError, INSIDE),
    "vector": (lambda draw: draw(NORMAL) * jnp.ones(2), ValueError, r"must return one number, .* got shape \(2,\)"),
    "nothing": (lambda draw: None, ValueError, "must return one number, its cost at the end, got None"),
    "name": (lambda draw: draw(NORMAL, name="x") + draw(NORMAL, name="x"), ValueError, "two draws are named 'x'"),
    "vector cost": (lambda draw: draw.cost(jnp.ones(2)) or 0.0, ValueError, r"draw.cost: value must be a scalar, got shape \(2,\)"),
    "unknown": (lambda draw: draw(NORMAL, "reparametrized"), ValueError, "draw: unknown estimator .* did you mean 'reparameterized'"),
    "no rule": (lambda draw: draw(NORMAL, "disarm"), NotImplementedError, "disarm: q must be a Bernoulli .*use reparameterized, "),
    "antithetic": (lambda draw: draw(rgrad.antithetic(NORMAL)), ValueError, "draw: antithetic draws need several samples"),
    "average": (lambda draw: draw(BIT, partial(rgrad.score_function, baseline=rgrad.moving_average())), ValueError, "baseline=average.value"),
    "optimal": (lambda draw: draw(BIT, "score_function+optimal"), ValueError, "draw: optimal needs several samples"),
    "own value": (lambda draw: draw(BIT, partial(rgrad.score_function, baseline=lambda v: v)), ValueError, "uses value 0 itself"),
    "not a distribution": (lambda draw: draw(3.0), TypeError, "draw: q must be a distribution, got float"),
    "complex": (lambda draw: draw(NORMAL) * 1j, TypeError, "expect_program: the costs must be real numbers, got complex64"),
    "batch": (lambda draw: draw(dist.Normal(jnp.zeros(2), 1.0)), ValueError, r"batch_shape \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_programs(name):
    program, error, match = BAD[name]
    with pytest.raises(error, match=match):
        rgrad.expect_program(program, KEY, 4)


def test_bad_arguments():
    program = lambda draw: draw(NORMAL)
    loo = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
    for args, error, match in (
        ((3, KEY), TypeError, "expect_program: program must be callable, got int 3"),
        ((program, 3), TypeError, "expect_program: key = 3 is not a PRNG key"),
        ((program, KEY, 0), ValueError, "n = 0 particles; ask for at least 1"),
        ((program, KEY, 2.0), TypeError, "n = 2.0 is not an int"),
        ((program, KEY, 1, "path"), ValueError, "expect_program: unknown estimator 'path'"),
        ((program, KEY, 1, loo), ValueError, "draw: leave_one_out needs another particle .* at least 2 particles"),
    ):
        with pytest.raises(error, match=match):
            rgrad.expect_program(*args)


def test_a_program_around_another():
    """A draw of the outer program inside the inner one is inside its particles."""
    outer = lambda draw: rgrad.expect_program(lambda inner: inner(NORMAL) + draw(NORMAL), draw.key(), 2)
    with pytest.raises(ValueError, match=INSIDE):
        rgrad.expect_program(outer, KEY, 2)
    right = lambda t: rgrad.expect_program(
        lambda draw: (
            draw(dist.Normal(t, 1.0)) * rgrad.expect_program(lambda d: d(dist.Normal(2.0, 1.0)), draw.key(), 50)
        ),
        KEY,
        500,
    )
    assert abs(jax.grad(right)(1.0) - 2.0) < 0.05  # the standard error is 1 / sqrt(25,000) = 0.006


def test_catching_exceptions_in_a_program_does_no_harm():
    def program(draw):
        try:
            return draw(NORMAL)
        except Exception:
            return 100.0

    assert rgrad.expect_program(program, KEY, 3) < 50


def as_its_own(estimator):
    """The same estimator, as one of the user's. It evaluates the rest of the program itself."""
    return lambda f, q, key, n: rgrad.ESTIMATORS[estimator].estimator(f, q, key, n)


@pytest.mark.parametrize("name", ["three_bits", "costs_in_the_middle", pytest.param("four", marks=pytest.mark.long)])
def test_draws_in_place_are_as_if_the_rest_were_evaluated(name):
    """The same numbers for the same keys, to second order, with draws in place before, between and after others."""
    program, kinds = PROGRAMS[name]
    plain = {"bit": "score_function", "continuous": "reparameterized"}

    def loss(estimators):
        f = lambda t: rgrad.expect_program(lambda draw: program(t, draw, estimators), KEY, 3)
        return jax.jit(lambda t: (f(t), jax.grad(f)(t), jax.hessian(f)(t)))

    everywhere = tuple(as_its_own(plain[kind]) for kind in kinds)
    truth = loss(everywhere)(T)
    for i in range(len(kinds)):
        some = [*everywhere]
        some[i] = plain[kinds[i]]
        for found, expected in zip(loss(tuple(some))(T), truth, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_baselines_of_draws_in_place():
    """Numbers, traced ones, and functions. A number changes no value, and the gradient by -number times the score."""
    q = lambda t: dist.Bernoulli(logits=t)

    def loss(baseline):
        def program(t, draw):
            b = draw(q(t), partial(rgrad.score_function, baseline=baseline(t)))
            draw.cost(3.0 * b)
            return draw(q(t - b), "score_function") * t

        return jax.jit(lambda t: of(program, 5)(t))

    none = loss(lambda t: 0.0)
    t = jnp.array(0.4)
    bits = [rgrad.trace_program(lambda draw: draw(q(t)), key).sites[0].value for key in jax.random.split(KEY, 5)]
    score = np.mean(jax.jit(jax.vmap(jax.grad(lambda t, b: q(t).log_prob(b)), (None, 0)))(t, jnp.stack(bits)))
    for number in (2.0, jnp.array(2.0), np.float32(2.0)):
        value, slope = jax.value_and_grad(loss(lambda t, number=number: number))(t)
        np.testing.assert_allclose(value, none(t), rtol=1e-6)
        np.testing.assert_allclose(slope, jax.grad(none)(t) - 2.0 * score, rtol=1e-4)
    traced = jax.value_and_grad(loss(lambda t: 5.0 * t))(t)
    np.testing.assert_allclose(traced, jax.value_and_grad(loss(lambda t: 2.0))(t), rtol=1e-5)
    others = lambda values: (values.sum() - values) / (values.size - 1)
    own = jax.value_and_grad(loss(lambda t: others))(t)
    np.testing.assert_allclose(own, jax.value_and_grad(loss(lambda t: rgrad.leave_one_out))(t), rtol=1e-4)


def test_counts_that_may_overflow():
    """The square of 50,000 does not fit into 32 bits. The program gets a float, although the draw is not the last."""
    program = lambda t, draw: draw(dist.Poisson(t), "score_function") ** 2 + draw(dist.Normal(t, 1.0))
    value, slope = jax.jit(jax.value_and_grad(of(program, 50)))(5e4)
    assert abs(value / 2.5e9 - 1) < 0.01
    assert jnp.isfinite(slope)


class WithoutDensity(dist.Normal):
    def log_prob(self, value, intermediates=None):
        return jnp.nan * super().log_prob(value)


def test_a_density_that_is_not_finite_gives_nan():
    """Not a gradient of zero, also when other draws follow."""

    def program(t, draw):
        x = draw(WithoutDensity(t, 1.0), "score_function")
        return x + draw(dist.Normal(t, 1.0), "score_function+leave_one_out")

    loss = of(program, 20)
    assert jnp.isnan(jax.jit(jax.grad(loss))(1.0))
    assert jnp.isnan(jnp.stack(jax.jit(lambda t: jax.jvp(loss, (t,), (1.0,)))(1.0))).all()


def test_the_support_must_not_move():
    program = lambda t, draw: draw(dist.Uniform(0.0, t), "score_function") + draw(dist.Normal(t, 1.0))
    with pytest.raises(NotImplementedError, match="score_function"):
        jax.grad(of(program))(1.0)
