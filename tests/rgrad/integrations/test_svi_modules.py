"""`SVILoss` with networks of Flax in model and guide, and against `TraceEnum_ELBO`."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.module import flax_module, nnx_module
from numpyro.infer import SVI, TraceEnum_ELBO

import rgrad
from tests.calibration import assert_unbiased

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
config_enumerate = pytest.importorskip("numpyro.contrib.funsor", exc_type=ImportError).config_enumerate

KEY = jax.random.key(0)
X = jnp.array([1.2, -0.3, 2.0])
FEATURES = jnp.array([[0.5, -1.0], [1.0, 0.3], [-0.2, 0.8]])


def networks(kind):
    """The encoder of the guide and the decoder of the model. Returns functions that are called inside the two."""
    if kind == "linen":
        return (
            lambda: flax_module("encoder", linen.Dense(1), input_shape=(2,)),
            lambda: flax_module("decoder", linen.Dense(1), input_shape=(1,)),
        )
    return (
        lambda: nnx_module("encoder", nnx.Linear(2, 1, rngs=nnx.Rngs(0))),
        lambda: nnx_module("decoder", nnx.Linear(1, 1, rngs=nnx.Rngs(1))),
    )


@pytest.mark.parametrize("kind", [pytest.param("linen", marks=pytest.mark.long), "nnx"])
def test_networks_in_model_and_guide(kind):
    """Bits whose logits an encoder computes, and a decoder of the bits, against enumeration of each bit.

    False failures: one in a million. A bias of 0.1 is caught, of gradients up to 3.
    """
    encoder, decoder = networks(kind)

    def model():
        decode = decoder()
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Bernoulli(0.4))
            numpyro.sample("x", dist.Normal(decode(1.0 * z[:, None])[:, 0], 1.0), obs=X)

    def guide():
        encode = encoder()
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Bernoulli(logits=encode(FEATURES)[:, 0]))

    svi = SVI(model, guide, optax.adam(0.05), rgrad.SVILoss(4))
    state = svi.init(KEY)
    params = svi.get_params(state)
    kernel = lambda p: p["kernel"]

    def exact(p):
        logits = (FEATURES @ kernel(p["encoder$params"]) + p["encoder$params"]["bias"])[:, 0]
        means = lambda z: z * kernel(p["decoder$params"])[0, 0] + p["decoder$params"]["bias"][0]
        log_p = lambda z: dist.Bernoulli(0.4).log_prob(z) + dist.Normal(means(z), 1.0).log_prob(X)
        log_q = lambda z: dist.Bernoulli(logits=logits).log_prob(z)
        return sum(jnp.sum(jnp.exp(log_q(z)) * (log_q(z) - log_p(z))) for z in (0, 1))

    truth = jax.value_and_grad(exact)(params)
    losses = [svi.loss, rgrad.SVILoss(1, {"z": "enumerated"})]
    draw = lambda loss, key: jax.value_and_grad(lambda p: loss.loss(key, p, model, guide))(params)
    assert_unbiased(lambda key: [draw(loss, key) for loss in losses], [truth] * 2, smallest_bias=0.1, replicates=20_000)
    before = svi.evaluate(state)
    for _ in range(3):
        state, loss = svi.update(state)
    assert np.isfinite(loss)
    assert np.isfinite(before)


def test_the_same_as_trace_enum_elbo():
    """NumPyro sums z out of the model. Here the guide has it, with its exact posterior given mu, and sums over it.

    Both then have the same loss and gradient for each mu. False failures: one in a million. A bias of 0.3 is caught, of
    gradients of 2.4 and -1.6.
    """
    prior = jnp.array([0.7, 0.3])
    loc = jnp.array([0.0, 2.0])
    log_joint = lambda mu, x: jnp.log(prior) + dist.Normal(mu + loc, 1.0).log_prob(x)

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Categorical(prior), infer={"enumerate": "parallel"})
            numpyro.sample("x", dist.Normal(mu + loc[z], 1.0), obs=X)

    def of_mu():
        return numpyro.sample("mu", dist.Normal(numpyro.param("m", -1.0), numpyro.param("s", 1.2)))

    def guide():
        mu = of_mu()
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Categorical(logits=log_joint(mu, X[:, None])))

    params = {"m": -1.0, "s": 1.2}
    ours, theirs = rgrad.SVILoss(1, {"z": "enumerated"}), TraceEnum_ELBO(max_plate_nesting=1)

    def difference(key):
        a, b = jax.random.split(key)
        mine = jax.value_and_grad(lambda p: ours.loss(a, p, model, guide))(params)
        numpyros = jax.value_and_grad(lambda p: theirs.loss(b, p, config_enumerate(model), of_mu))(params)
        return jax.tree.map(jnp.subtract, mine, numpyros)

    assert_unbiased(difference, (0.0, {"m": 0.0, "s": 0.0}), smallest_bias=0.3, replicates=40_000)
