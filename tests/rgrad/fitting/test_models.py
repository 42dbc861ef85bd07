"""`fit` of models as they are: modules, trees with other things than floats, and optimizers that need more than gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rgrad

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (20, 2))
Y = X[:, 0] - 0.5 * X[:, 1] ** 2


def noisy(predict):
    """A loss with noise: a quadratic error on half of the data."""

    def loss(model, key):
        rows = jax.random.permutation(key, 20)[:10]
        return jnp.mean((jax.vmap(lambda x: predict(model, x))(X[rows]) - Y[rows]) ** 2)

    return loss


def tree():
    w = jax.random.normal(jax.random.key(2), (2, 8)) / 2
    return {
        "w": w,
        "out": jnp.ones(8) / 8,
        "order": jnp.array([1, 0]),
        "act": jnp.tanh,
        "name": "float32",  # also the name of a dtype
        "on": np.array([True]),
    }


def of_tree(m, x):
    return m["act"](x[m["order"]] @ m["w"]) @ m["out"]


def by_hand(loss, params, rest, optimizer, steps):
    """The same steps in plain Python, with the keys of `fit`."""
    optimizer = optax.with_extra_args_support(optimizer)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, t):
        of = lambda p: loss({**p, **rest}, rgrad.noise.fold_in(KEY, t))
        value, gradient = jax.value_and_grad(of)(params)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=of)
        return optax.apply_updates(params, updates), state

    for t in range(steps):
        params, state = step(params, state, jnp.asarray(t))
    return params


OPTIMIZERS = {
    "adam": optax.adam(0.05),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "multi_transform": optax.multi_transform(
        {"fast": optax.sgd(0.1), "slow": optax.set_to_zero()},
        lambda params: {name: None if x is None else "slow" if name == "out" else "fast" for name, x in params.items()},
    ),
    "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(learning_rate=lambda step: 0.1 / (1 + step)),
    "reduce_on_plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=2, factor=0.5)),
    "polyak": optax.polyak_sgd(max_learning_rate=0.1),
    "lbfgs": optax.lbfgs(memory_size=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_tree_with_other_things(name):
    """Integers, a function, a text and bools come back unchanged; the rest as in the loop by hand."""
    optimizer, model = OPTIMIZERS[name], tree()
    fitted = rgrad.fit(noisy(of_tree), model, optimizer, KEY, 6)
    floats = {k: v for k, v in model.items() if k in ("w", "out")}
    hand = by_hand(noisy(of_tree), floats, {k: v for k, v in model.items() if k not in floats}, optimizer, 6)
    assert set(fitted.params) == set(model)
    for k in floats:
        np.testing.assert_allclose(fitted.params[k], hand[k], rtol=1e-5, atol=1e-6)
    assert fitted.params["act"] is jnp.tanh
    assert fitted.params["name"] == "float32"
    np.testing.assert_array_equal(fitted.params["order"], [1, 0])
    assert fitted.params["on"].dtype == bool
    assert np.any(fitted.params["w"] != model["w"])


def test_pieces_and_records_of_a_tree():
    optimizer, loss = OPTIMIZERS["adam"], noisy(of_tree)
    record = lambda m: m["act"](m["out"][0])
    whole = rgrad.fit(loss, tree(), optimizer, KEY, 6, record=record)
    half = rgrad.fit(loss, tree(), optimizer, KEY, 3, record=record, feasible=lambda m: jnp.all(m["order"] >= 0))
    again = rgrad.fit(loss, half, optimizer, KEY, 3, record=record)
    np.testing.assert_array_equal(again.params["w"], whole.params["w"])
    assert whole.trace.params.shape == (6,)
    assert rgrad.fit(loss, tree(), optimizer, KEY, 2).trace.params["w"].shape == (2, 2, 8)
    assert "w" in str(whole)


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, "scalar", 8, 1, key=jax.random.key(3))
    loss = noisy(lambda m, x: m(x))
    fitted = rgrad.fit(loss, model, optax.adam(0.05), KEY, 60)
    assert type(fitted.params) is type(model)
    assert fitted.params.activation is model.activation or callable(fitted.params.activation)
    assert loss(fitted.params, KEY) < 0.5 * loss(model, KEY)


def test_nnx():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(nnx.Linear(2, 8, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(8, 1, rngs=nnx.Rngs(1)))
    loss = noisy(lambda m, x: m(x)[0])
    fitted = rgrad.fit(loss, model, optax.adam(0.05), KEY, 60)
    assert isinstance(fitted.params, nnx.Sequential)
    assert loss(fitted.params, KEY) < 0.5 * loss(model, KEY)
    moments = rgrad.measure(lambda key: jax.grad(loss)(fitted.params, key), KEY, 10)
    assert jax.tree.leaves(moments.variance)
    with pytest.raises(ValueError, match="trace level") as refused:
        rgrad.measure(lambda key: nnx.grad(loss)(fitted.params, key), KEY, 10)
    assert "draw = lambda key: jax.grad(loss)(model, key)" in "".join(refused.value.__notes__)


class Net(NamedTuple):
    w: jax.Array
    size: int = 3


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        (
            {"w": 1.0, "steps": 3},
            TypeError,
            r"parameter steps = 3 is not a float, so it cannot be fitted; write 3.0",
        ),
        (Net(jnp.ones(2)), TypeError, r"parameter size = 3 is not a float"),
        ({"order": jnp.array([1, 2])}, ValueError, "fit: params must contain at least one number or array of floats"),
        ({"w": 1j}, TypeError, r"parameter w is complex; fit its real and imaginary parts"),
    ],
)
def test_what_cannot_be_trained(params, error, match):
    with pytest.raises(error, match=match):
        rgrad.fit(lambda p, key: 0.0, params, optax.sgd(0.1), KEY, 2)


def test_it_returns_to_the_last_good_parameters():
    """log(x) falls by 0.9 in a step, below 0, where it is nan. The fit ends at the last x with a loss."""
    loss = lambda x, key: jnp.log(x)
    fitted = rgrad.fit(loss, 1.0, optax.sgd(0.9), KEY, 5)
    assert (int(fitted.stopped_at), bool(fitted.diverged)) == (2, True)
    np.testing.assert_allclose(fitted.params, 0.1, rtol=1e-5)
    pieces = rgrad.fit(loss, rgrad.fit(loss, 1.0, optax.sgd(0.9), KEY, 2), optax.sgd(0.9), KEY, 3)
    np.testing.assert_allclose(pieces.params, 0.1, rtol=1e-5)
