"""The core of the library under each of JAX's modes: it works, or is refused in one line."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import rgrad

leave_one_out = partial(rgrad.score_function, baseline=rgrad.leave_one_out)
normal = lambda t: dist.Normal(t, 1.0)


class Square:
    params = {"loc": 2.0}  # noqa: RUF012
    distribution = staticmethod(lambda params: normal(params["loc"]))
    objective = staticmethod(lambda params, x: x**2)


def gradient(q, estimator):
    loss = lambda t, key: rgrad.expect(lambda x: x**2, q(t), key, 4, estimator)
    return lambda key: jax.grad(loss)(2.0, key)


def bits(estimator):
    q = lambda logits: dist.Bernoulli(logits=logits).to_event(1)
    loss = lambda logits, key: rgrad.expect(lambda b: jnp.sum(b * 1.0) ** 2, q(logits), key, 4, estimator)
    return lambda key: jax.grad(loss)(jnp.array([0.4, -0.3]), key)


loss = lambda p, key: rgrad.expect(lambda x: (x - 3.0) ** 2, normal(p), key, 4)
JOBS = {
    "reparameterized": gradient(normal, rgrad.reparameterized),
    "leave_one_out": gradient(normal, leave_one_out),
    "optimal": gradient(normal, partial(rgrad.score_function, baseline=rgrad.optimal)),
    "measure_valued": gradient(normal, rgrad.measure_valued),
    "generalized": gradient(normal, rgrad.generalized),
    "quasi": gradient(lambda t: rgrad.quasi(normal(t)), rgrad.reparameterized),
    "stratified": gradient(lambda t: rgrad.stratified(normal(t)), rgrad.reparameterized),
    "Gamma": gradient(lambda t: dist.Gamma(t, 1.0), rgrad.rejection),
    "disarm": bits(rgrad.disarm),
    "leave_one_out of bits": bits(leave_one_out),
    "elbo": lambda key: jax.grad(lambda t: rgrad.elbo(lambda z: -(z**4), normal(t), key, 4))(2.0),
    "vimco": lambda key: jax.grad(lambda t: rgrad.iwae(lambda z: -(z**2), normal(t), key, 3, 2, gradient=rgrad.vimco))(2.0),
    "vmap": lambda key: jax.vmap(gradient(normal, leave_one_out))(jax.random.split(key, 2)),
    "fit": lambda key: rgrad.fit(loss, 0.0, optax.sgd(0.1), key, 3).params,
    "measure": lambda key: rgrad.measure(gradient(normal, leave_one_out), key, 20).mean,
    "sweep": lambda key: rgrad.sweep(Square, {"loc": [1.0, 2.0]}, key=key, replicates=8).moments().mean,
    "exact_moments": lambda key: rgrad.exact_moments(Square, rgrad.score_function).mean,
}  # fmt: skip
new, legacy, rbg = jax.random.key, jax.random.PRNGKey, partial(jax.random.key, impl="rbg")
MODES = {
    "none": (contextlib.nullcontext, new),
    "disable_jit": (jax.disable_jit, new),
    "debug_nans": (partial(jax.debug_nans, True), new),
    "strict promotion": (partial(jax.numpy_dtype_promotion, "strict"), new),
    "no rank promotion": (partial(jax.numpy_rank_promotion, "raise"), new),
    "64 bits": (partial(jax.enable_x64, True), new),
    "legacy keys": (contextlib.nullcontext, legacy),
    "rbg keys": (contextlib.nullcontext, rbg),
    "threefry that is not partitionable": (partial(jax.threefry_partitionable, False), new),
    "checks of key reuse": (partial(jax.debug_key_reuse, True), new),
    "checks of leaks": (jax.checking_leaks, new),
}
REFUSED = {
    ("disable_jit", "measure"): "measure: it compiles what it measures, but jax.disable_jit is set; leave that context",
    ("disable_jit", "sweep"): "sweep: it compiles what it measures, but jax.disable_jit is set; leave that context",
    ("rbg keys", "fit"): "fit: key is of the kind rbg",
    ("rbg keys", "measure"): "measure: key is of the kind rbg",
    ("rbg keys", "sweep"): "sweep: key is of the kind rbg",
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode):
    context, make_key = MODES[mode]
    with context():
        for number, (name, job) in enumerate(JOBS.items()):
            key = make_key(number)
            if (mode, name) in REFUSED:
                with pytest.raises(ValueError, match=REFUSED[mode, name]):
                    job(key)
            else:
                for leaf in jax.tree.leaves(job(key)):
                    assert np.isfinite(leaf).all(), name


def test_compare_needs_compilation():
    with jax.disable_jit(), pytest.raises(ValueError, match="compare: it compiles what it measures"):
        rgrad.compare(Square, key=jax.random.key(0))
