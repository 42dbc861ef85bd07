"""Models with matrix products in `measure`, `sweep`, `vmap(fit)` and `compare`, against JAX op by op in 64 bits.

Op by op, under `jax.disable_jit`, nothing is fused. In 64 bits rounding errors are negligible.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad

KEY = jax.random.key(3)
N, REPLICATES = 4, 300


def triangular(a):
    return jnp.linalg.cholesky(a @ a.T + 2 * jnp.eye(len(a), dtype=a.dtype))


def softmax(x):
    return jnp.exp(x - x.max(-1, keepdims=True)) / jnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)


def attention(w, x):
    scores = softmax((x @ w["q"]) @ (x @ w["k"]).T)
    return ((scores @ (x @ w["v"])) ** 2).mean()


def heads(w, x):
    q, k = jnp.einsum("ld,hde->hle", x, w["q"]), jnp.einsum("ld,hde->hle", x, w["k"])
    return jnp.einsum("hlm,md->hld", softmax(jnp.einsum("hle,hme->hlm", q, k)), x + 1).sum()


def recurrent(w, x):
    step = lambda h, row: (jnp.tanh(h @ w["w"] + row @ w["u"]), None)
    return (jax.lax.scan(step, jnp.zeros_like(x[0]), x)[0] ** 2).sum()


def convolution(w, x):
    y = jax.lax.conv_general_dilated(x[None], w["k"], (1,), "SAME")
    return (jnp.tanh(y)[0] @ w["w"]).mean()


def convolution2d(w, x):
    y = jax.lax.conv_general_dilated(x[None, None], w["k"], (1, 1), "VALID")
    return jnp.maximum(y, 0).mean() + (y[0, 0] @ y[0, 1].T).mean()


def whitened(w, x):
    solved = jax.scipy.linalg.solve_triangular(triangular(w["a"]), x, lower=True)
    return solved @ solved / 2 + jnp.log(jnp.diagonal(triangular(w["a"]))).sum()


def layers(w, x):
    for name in ("a", "b", "c"):
        x = jnp.tanh(x @ w[name]) + x
    return (x**2).mean()


def normalised(w, x):
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(1 + x.var(-1, keepdims=True))
    return ((y @ w["w"] + w["b"]) ** 2).mean()


def mixture(w, x):
    return jnp.log(jnp.exp(jnp.tanh(x @ w["w"])).sum()) - (x @ w["w"])[0]


SQUARE = {"a": (5, 5), "b": (5, 5), "c": (5, 5)}
# By name: the shapes of the parameters, the shape of x, and the objective.
MODELS = {
    "linear": ({"w": (5, 3)}, (5,), lambda w, x: ((x @ w["w"]) ** 2).mean()),
    "ones": ({"w": (5,)}, (5,), lambda w, x: (((x + w["w"]) @ jnp.ones((5, 3), x.dtype)) ** 2).mean()),
    "broadcast": ({"t": ()}, (4, 5), lambda w, x: ((x @ jnp.broadcast_to(w["t"], (5, 3))) ** 2).mean()),
    "batch of ones": ({"t": ()}, (4, 5), lambda w, x: ((x + w["t"]) @ jnp.ones((5, 3), x.dtype)).sum() ** 2 / 100),
    "perceptron": ({"w": (5, 8), "b": (8,), "v": (8, 1)}, (5,), lambda w, x: (jnp.tanh(x @ w["w"] + w["b"]) @ w["v"]).sum()),
    "rectified": ({"w": (5, 8), "v": (8, 3)}, (4, 5), lambda w, x: ((jnp.maximum(x @ w["w"], 0) @ w["v"]) ** 2).mean()),
    "residual": (SQUARE, (4, 5), layers),
    "three layers": (SQUARE, (5,), layers),
    "attention": ({"q": (4, 4), "k": (4, 4), "v": (4, 4)}, (3, 4), attention),
    "two heads": ({"q": (2, 4, 3), "k": (2, 4, 3)}, (3, 4), heads),
    "convolution": ({"k": (3, 2, 3), "w": (8, 2)}, (2, 8), convolution),
    "two-dimensional convolution": ({"k": (2, 1, 3, 3)}, (6, 6), convolution2d),
    "Cholesky": ({"a": (4, 4)}, (4,), whitened),
    "precision": ({"a": (4, 4)}, (4,), lambda w, x: x @ (w["a"] @ w["a"].T) @ x),
    "bilinear": ({"a": (5, 4)}, (9,), lambda w, x: jnp.tanh(x[:5] @ w["a"] @ x[5:])),
    "recurrent": ({"w": (4, 4), "u": (4, 4)}, (3, 4), recurrent),
    "normalised": ({"w": (5, 3), "b": (3,)}, (4, 5), normalised),
    "mixture": ({"w": (5, 3)}, (5,), mixture),
    "Gram matrix": ({"w": (5, 5)}, (4, 5), lambda w, x: jnp.tanh((x @ w["w"]) @ x.T / 5).sum()),
    "batched": ({"w": (2, 5, 3)}, (2, 4, 5), lambda w, x: (jnp.einsum("bij,bjk->bik", x[:, ::-1], w["w"]) ** 2).mean()),
}  # fmt: skip
FAST = ("batch of ones", "attention", "Cholesky")


def each(fast):
    """Each of these models. The others are long tests: every operation is compiled separately, which takes minutes."""
    return pytest.mark.parametrize(
        "name", [n if n in fast else pytest.param(n, marks=pytest.mark.long) for n in MODELS]
    )


class Model:
    """`E[f(w, x)]`, with x normal around w["loc"], which is also a parameter."""

    def __init__(self, name):
        shapes, self.shape, self.f = MODELS[name]
        rng = np.random.default_rng(sorted(MODELS).index(name))
        draw = lambda shape: (rng.standard_normal(shape) / 2).astype(np.float32)
        self.params = {**{k: draw(shape) for k, shape in shapes.items()}, "loc": np.float32(0.5)}

    def distribution(self, params):
        return dist.Normal(params["loc"] * jnp.ones(self.shape), 1.0).to_event(len(self.shape))

    def objective(self, params, x):
        return self.f(params, x)

    def loss(self, params, key):
        return rgrad.expect(partial(self.objective, params), self.distribution(params), key, N)

    def op_by_op(self, params, keys):
        """Loss and gradient for each of the keys, from the same noise, in 64 bits."""
        noise = np.asarray(jax.vmap(lambda key: rgrad.noise.normal(key, (N, *self.shape)))(keys))

        def loss(params, eps):
            return jax.vmap(lambda e: self.f(params, params["loc"] + e))(eps).mean()

        with jax.enable_x64(True), jax.disable_jit():
            wide = jax.tree.map(lambda p: jnp.asarray(p, float), params)
            values = jax.vmap(jax.value_and_grad(loss), (None, 0))(wide, jnp.asarray(noise, float))
            return jax.tree.map(np.asarray, values)


def keys_of(key, count=REPLICATES):
    """The keys of the replicates of `measure`."""
    return jax.vmap(lambda r: jax.random.fold_in(jax.random.fold_in(key, 0), r))(np.arange(count))


def assert_same(got, want, digits=2e-5):
    """Equal up to rounding, relative to the largest number of each array."""
    close = lambda g, w: np.testing.assert_allclose(g, w, rtol=0, atol=digits * (np.abs(w).max() + 1e-3))
    jax.tree.map(close, jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


@each(FAST)
def test_measure(name):
    model = Model(name)
    moments = rgrad.measure(lambda key: jax.value_and_grad(model.loss)(model.params, key), KEY, REPLICATES)
    want = model.op_by_op(model.params, keys_of(KEY))
    assert_same(moments.mean, jax.tree.map(lambda x: x.mean(0), want))
    assert_same(moments.variance, jax.tree.map(lambda x: x.var(0, ddof=1), want), 1e-4)


@each(FAST[:1])
def test_fits(name):
    """Five steps of three fits, one operation after another."""
    model, keys = Model(name), jax.random.split(KEY, 3)
    fits = jax.vmap(lambda key: rgrad.fit(model.loss, model.params, optax.sgd(0.05), key, 5))(keys)
    for i, key in enumerate(keys):
        params = model.params
        for step in range(5):
            _, gradient = model.op_by_op(params, jax.random.fold_in(key, step)[None])
            params = jax.tree.map(lambda p, g: np.asarray(p, float) - 0.05 * np.asarray(g[0]), params, gradient)
        assert_same(jax.tree.map(lambda p, i=i: p[i], fits.params), params, 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_sweep(name):
    """At three points, with common noise."""
    model, places = Model(name), [-0.5, 0.25, 1.0]
    estimators = {"pathwise": rgrad.reparameterized}
    found = rgrad.sweep(model, {"loc": places, "n": [N]}, estimators, key=KEY, replicates=REPLICATES, common_noise=True)
    keys = keys_of(jax.random.fold_in(jax.random.fold_in(KEY, 0), N))
    for i, loc in enumerate(places):
        _, want = model.op_by_op({**model.params, "loc": np.float32(loc)}, keys)
        got = jax.tree.map(lambda x, i=i: x[i], found.moments().mean["pathwise"])
        assert_same(got, jax.tree.map(lambda x: x.mean(0), want))


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_compare(name):
    """The mean is within 7 standard errors of the mean of 100,000 samples op by op. False failures: under 1e-6."""
    model = Model(name)
    estimators = {
        "pathwise": rgrad.reparameterized,
        "score": partial(rgrad.score_function, baseline=rgrad.leave_one_out),
    }
    found = rgrad.compare(model, estimators, wrt=["loc"], key=KEY, n=N, budget=0.5)
    want = np.asarray(model.op_by_op(model.params, keys_of(jax.random.key(9), 25_000))[1]["loc"])
    error = want.std() / len(want) ** 0.5
    for row in found.rows:
        assert abs(row["mean"] - want.mean()) <= 7 * np.hypot(row["standard_error"], error) + 1e-5, row
        assert row["biased"] is not True, row
