"""`rgrad.fit` takes the same steps as optax: in pieces or at once, one fit or many. What stops a fit."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad

KEY = jax.random.key(0)
START = {"loc": 2.0, "scale": 1.5}


def loss(params, key, estimator=rgrad.reparameterized):
    q = dist.Normal(params["loc"], jnp.abs(params["scale"]))
    return rgrad.expect(lambda x: (x - 3) ** 2, q, key, 10, estimator)


def with_average(params, average, key):
    value = loss(params, key, partial(rgrad.score_function, baseline=average))
    return value, average.update(value)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.05), optax.adam(optax.exponential_decay(0.1, 10, 0.9))])
def test_the_steps_are_those_of_a_loop(optimizer):
    params, state = jax.tree.map(jnp.asarray, START), optimizer.init(START)
    fitted = rgrad.fit(loss, START, optimizer, KEY, 30)
    for t in range(30):
        value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(KEY, t))
        np.testing.assert_allclose(fitted.trace.loss[t], value, rtol=1e-4)
        np.testing.assert_allclose(fitted.trace.params["loc"][t], params["loc"], rtol=1e-4)
        np.testing.assert_allclose(fitted.trace.gradient_norm[t], optax.tree.norm(gradient), rtol=1e-4)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(fitted.params["scale"], params["scale"], rtol=1e-4)
    assert (int(fitted.step), int(fitted.stopped_at), bool(fitted.diverged)) == (30, -1, False)


@pytest.mark.parametrize(
    ("function", "state"), [(loss, None), (with_average, rgrad.moving_average())], ids=["plain", "state"]
)
@pytest.mark.parametrize("pieces", [(100, 100), (1, 199), (70, 60, 70)])
def test_pieces_give_the_same_result(function, state, pieces):
    optimizer = optax.adam(0.02)
    whole = rgrad.fit(function, START, optimizer, KEY, 200, state)
    piece, losses = rgrad.initial_fit(START, optimizer, state), []
    for count in pieces:
        piece = rgrad.fit(function, piece, optimizer, KEY, count)
        losses.append(piece.trace.loss)
    for mine, theirs in zip(
        jax.tree.leaves(piece._replace(trace=0)), jax.tree.leaves(whole._replace(trace=0)), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    np.testing.assert_allclose(jnp.concatenate(losses), whole.trace.loss, rtol=1e-6)


def test_many_fits_in_one_program():
    keys, traces = jax.random.split(KEY, 50), []

    def counted(params, key):
        traces.append(1)
        return loss(params, key)

    many = jax.jit(jax.vmap(lambda key: rgrad.fit(counted, START, optax.sgd(0.02), key, 300)))(keys)
    before = len(traces)
    one = rgrad.fit(loss, START, optax.sgd(0.02), keys[7], 300)
    np.testing.assert_allclose(many.params["loc"][7], one.params["loc"], rtol=1e-4)
    assert many.trace.loss.shape == (50, 300)
    assert before <= 6  # once each for the shape, the gradient and the loop, not for every step or fit
    # loc converges to 3 and scale to 0. The mean of 50 fits is within 0.1 (over 6 standard errors of 0.12/sqrt(50)).
    assert abs(many.params["loc"].mean() - 3) < 0.1


def test_a_state_lowers_the_noise():
    """The same fits with and without a moving average, which makes the final spread at least 1.5 times smaller.

    The true factor is about 7 (noise of 10 + x against x), so false failures are far below 1e-6.
    """
    keys = jax.random.split(KEY, 200)
    far = lambda params, key, estimator: rgrad.expect(
        lambda x: x + 10.0, dist.Normal(params["loc"], 1.0), key, 10, estimator
    )

    def averaged(params, average, key):
        value = far(params, key, partial(rgrad.score_function, baseline=average))
        return value, average.update(value)

    plain = lambda params, key: far(params, key, rgrad.score_function)
    without = jax.vmap(lambda key: rgrad.fit(plain, {"loc": 0.0}, optax.sgd(0.01), key, 100))(keys)
    average = jax.vmap(
        lambda key: rgrad.fit(averaged, {"loc": 0.0}, optax.sgd(0.01), key, 100, rgrad.moving_average())
    )(keys)
    assert without.params["loc"].std() > 1.5 * average.params["loc"].std()
    assert average.state.weight[0] == pytest.approx(1, abs=1e-3)


def test_divergence_stops_with_the_step_and_keeps_the_trace():
    steep = lambda params, key: params["loc"] ** 4
    fitted = rgrad.fit(steep, {"loc": 2.0}, optax.sgd(10.0), KEY, 50)
    assert fitted.diverged
    assert 0 < fitted.stopped_at < 10
    trace = jax.tree.map(np.asarray, fitted.trace)
    assert np.isfinite(trace.loss).all()
    assert np.isfinite(trace.params["loc"]).all()
    assert np.isfinite(trace.gradient_norm).all()
    assert trace.params["loc"][0] == 2.0
    assert np.all(trace.params["loc"][fitted.stopped_at + 1 :] == fitted.params["loc"])  # the last with a loss


def test_a_trace_has_no_loss_that_was_never_computed():
    """nan if the first loss is nan. In pieces after a stop, the last value of the earlier piece. Never 0."""
    root = lambda params, key: jnp.sqrt(params["a"])
    first = rgrad.fit(root, {"a": -1.0}, optax.sgd(0.1), KEY, 3)
    assert np.isnan(first.trace.loss).all()
    assert np.isnan(first.trace.gradient_norm).all()
    assert (int(first.stopped_at), bool(first.diverged)) == (0, True)
    at_zero = rgrad.fit(root, {"a": 0.0}, optax.sgd(0.1), KEY, 3).trace  # its loss is 0 and its derivative inf
    np.testing.assert_array_equal(at_zero.loss, 0.0)
    assert np.isnan(at_zero.gradient_norm).all()
    steep = lambda params, key: params["loc"] ** 4
    optimizer = optax.sgd(10.0)
    whole = rgrad.fit(steep, {"loc": 2.0}, optimizer, KEY, 20)
    piece = rgrad.fit(steep, {"loc": 2.0}, optimizer, KEY, 10)
    later = rgrad.fit(steep, piece, optimizer, KEY, 10)
    for field in ("loss", "gradient_norm"):
        pieces = np.concatenate([getattr(piece.trace, field), getattr(later.trace, field)])
        np.testing.assert_array_equal(pieces, getattr(whole.trace, field))


def test_a_step_out_of_the_feasible_set_is_refused():
    down = lambda params, key: params["scale"]
    keys = jax.random.split(KEY, 3)
    positive = lambda params: params["scale"] > 0
    many = jax.vmap(lambda start, key: rgrad.fit(down, {"scale": start}, optax.sgd(0.1), key, 20, feasible=positive))(
        jnp.array([0.25, 1.05, 100.0]), keys
    )
    np.testing.assert_array_equal(many.stopped_at, [2, 10, -1])
    assert not many.diverged.any()
    assert (many.params["scale"] > 0).all()
    # It remains stopped in later pieces.
    later = rgrad.fit(down, jax.tree.map(lambda x: x[0], many), optax.sgd(0.1), KEY, 5, feasible=positive)
    assert (int(later.stopped_at), int(later.step)) == (2, 25)
    assert later.params["scale"] == many.params["scale"][0]


def test_record_and_64_bit(x64):
    fitted = rgrad.fit(loss, START, optax.sgd(0.05), KEY, 5, record=lambda params: params["scale"] ** 2)
    assert fitted.trace.params.shape == (5,)
    assert fitted.params["loc"].dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda o: rgrad.fit(loss, {"loc": 2, "scale": 1.0}, o, KEY, 5), TypeError, r"parameter loc = 2 is not a float, .* write 2.0"),
        (lambda o: rgrad.fit(loss, START, o, KEY, 0), ValueError, "fit: steps must be at least 1, got 0"),
        (lambda o: rgrad.fit(loss, START, o, KEY, 1e3), TypeError, "steps must be a Python int .* got 1000.0"),
        (lambda o: rgrad.fit(loss, START, o, 3, 5), TypeError, "fit: key = 3 is not a PRNG key"),
        (lambda o: rgrad.fit(lambda p, k: jnp.ones(2), START, o, KEY, 5), TypeError, "must return a float scalar"),
        (lambda o: rgrad.fit(with_average, START, o, KEY, 5), TypeError, "key"),
        (lambda o: rgrad.fit(lambda p, s, k: p["loc"], START, o, KEY, 5, 1.0), TypeError, r"must return \(value, state\)"),
        (lambda o: rgrad.fit(lambda p, s, k: (p["loc"], (s, s)), START, o, KEY, 5, 1.0), ValueError, "must return a state of the structure"),
    ],
)  # fmt: skip
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call(optax.sgd(0.1))


def test_recording_is_optional():
    square = lambda x, key: x**2
    fitted = rgrad.fit(square, 1.0, optax.sgd(0.1), KEY, 3, record=lambda x: ())
    assert fitted.trace.params == ()
    assert float(fitted.params) == pytest.approx(0.8**3)
    bare = rgrad.fit(square, 1.0, optax.sgd(0.1), KEY, 3, record=None)
    assert jax.tree.leaves(bare.trace) == []
    assert bare.params == fitted.params
    assert rgrad.fit(square, bare, optax.sgd(0.1), KEY, 3).trace.loss.shape == (3,)


def test_the_same_fits_under_every_transformation():
    """One trajectory: without a transformation, under vmap (with our compiler options), under jit, and differentiated."""
    fit = lambda at, key: rgrad.fit(loss, {"loc": at, "scale": 1.0}, optax.adam(0.02), key, 50).params["loc"]
    keys, at = jax.random.split(KEY, 3), jnp.array([1.0, 2.0, 3.0])
    alone = [fit(*of) for of in zip(at, keys, strict=True)]
    np.testing.assert_allclose(jax.vmap(fit)(at, keys), alone, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(fit))(at, keys), alone, rtol=1e-5)
    forward, reverse = float(jax.jacfwd(fit)(2.0, keys[1])), float(jax.grad(fit)(2.0, keys[1]))
    step = float(fit(2.01, keys[1]) - fit(1.99, keys[1])) / 0.02
    assert forward == pytest.approx(reverse, rel=1e-4)
    assert forward == pytest.approx(step, rel=0.01)
    np.testing.assert_allclose(jax.vmap(jax.grad(fit))(at, keys)[1], reverse, rtol=1e-4)


def test_a_fit_that_stops_does_not_hold_up_the_others():
    """Adam's counter advances in all fits and stays one number, so its powers are not computed for each fit."""
    steep = lambda params, key: params["loc"] ** 2
    inside = lambda params: jnp.abs(params["loc"]) < 1.5
    fit = lambda at: rgrad.fit(steep, {"loc": at}, optax.adam(0.1), KEY, 30, feasible=inside)
    many = jax.vmap(fit)(jnp.array([2.0, 1.0]))
    np.testing.assert_array_equal(many.stopped_at, [0, -1])
    assert many.params["loc"][0] == 2.0
    np.testing.assert_array_equal(many.optimizer_state[0].mu["loc"][0], 0.0)
    np.testing.assert_array_equal(many.optimizer_state[0].count, [30, 30])
    assert many.params["loc"][1] == pytest.approx(float(fit(1.0).params["loc"]), rel=1e-5)
    program = jax.jit(jax.vmap(fit)).lower(jnp.ones(64)).as_text()
    assert "stablehlo.power" in program
    assert not re.search(r"stablehlo.power.*tensor<64x", program)


def test_an_error_of_the_loss_is_reported_once():
    def broken(params, key):
        if len(calls) > 1:
            raise ValueError("mine")
        calls.append(1)
        return params["loc"]

    calls = []
    with pytest.raises(ValueError, match="mine") as caught:
        jax.vmap(lambda at: rgrad.fit(broken, {"loc": at}, optax.sgd(0.1), KEY, 5))(jnp.ones(2))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("record", [None, lambda params: params])
def test_a_fit_runs_with_debug_nans(record):
    """The trace starts without a value, and this is not a nan that JAX makes."""
    loss = lambda params, key: params["loc"] ** 2
    with jax.debug_nans(True):
        end = rgrad.fit(loss, {"loc": 1.0}, optax.sgd(0.1), KEY, 5, record=record)
    assert float(end.params["loc"]) == pytest.approx(0.8**5)
