"""The core of the library under each of JAX's modes: it works, or is refused in one line."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
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
    loss = lambda logits, key: rgrad.expect(lambda b: jnp.sum(b.astype(float)) ** 2, q(logits), key, 4, estimator)
    return lambda key: jax.grad(loss)(jnp.array([0.4, -0.3]), key)


def two_draws(t, draw):
    x = draw(dist.Normal(t, 1.0), leave_one_out)
    return draw(dist.Normal(t * x, 1.0)) ** 2


def steps(t, draw):
    """A draw by a score function in each step of a scan."""

    def step(draw, x, _):
        x = draw(dist.Normal(t * x, 1.0), leave_one_out)
        draw.cost(x**2)
        return x, None

    return draw.scan(step, jnp.zeros(()), length=2)[0]


def svi(key):
    model = lambda: numpyro.sample("y", dist.Normal(numpyro.sample("x", normal(0.0)), 1.0), obs=jnp.array(0.5))
    guide = lambda: numpyro.sample("x", normal(numpyro.param("m", 0.0)))
    loss = rgrad.SVILoss(3, {"x": "score_function+leave_one_out"})
    return jax.grad(lambda m: loss.loss(key, {"m": m}, model, guide))(0.3)


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
    "program": lambda key: jax.grad(lambda t: rgrad.expect_program(partial(two_draws, t), key, 3))(0.4),
    "scan": lambda key: jax.grad(lambda t: rgrad.expect_program(partial(steps, t), key, 3))(0.4),
    "svi": svi,
    "vmap": lambda key: jax.vmap(gradient(normal, leave_one_out))(jax.random.split(key, 2)),
    "fit": lambda key: rgrad.fit(loss, 0.0, optax.sgd(0.1), key, 3).params,
    "measure": lambda key: rgrad.measure(gradient(normal, leave_one_out), key, 20).mean,
    "sweep": lambda key: rgrad.sweep(Square, {"loc": [1.0, 2.0]}, key=key, replicates=8).moments().mean,
    "exact_moments": lambda key: rgrad.exact_moments(Square, rgrad.score_function).mean,
}  # fmt: skip
FEW = ("reparameterized", "leave_one_out", "program", "scan", "vmap", "fit", "measure", "sweep")
NOT_BITS = tuple(
    name for name in JOBS if name not in ("disarm", "leave_one_out of bits")
)  # NumPyro refuses them itself
RUN = ("fit", "measure", "sweep", "exact_moments")  # these need more than a trace
new, legacy, rbg = jax.random.key, jax.random.PRNGKey, partial(jax.random.key, impl="rbg")


class Mode(NamedTuple):
    context: Callable[[], Any]
    jobs: tuple[str, ...] = FEW
    make_key: Callable[[int], Any] = new
    traced: bool = False
    """Whether a trace is enough: the mode is about the types and shapes of operands."""


MODES = {
    "disable_jit": Mode(jax.disable_jit, ("reparameterized", "leave_one_out", "quasi", "elbo", "vimco", "program", "scan", "svi", "fit", "measure", "sweep")),
    "debug_nans": Mode(partial(jax.debug_nans, True), (*FEW, "Gamma")),
    "strict promotion": Mode(partial(jax.numpy_dtype_promotion, "strict"), NOT_BITS, traced=True),
    "no rank promotion": Mode(partial(jax.numpy_rank_promotion, "raise"), NOT_BITS, traced=True),
    "64 bits": Mode(partial(jax.enable_x64, True)),
    "legacy keys": Mode(contextlib.nullcontext, make_key=legacy),
    "rbg keys": Mode(contextlib.nullcontext, make_key=rbg),
    "threefry that is not partitionable": Mode(partial(jax.threefry_partitionable, False)),
    "checks of key reuse": Mode(partial(jax.debug_key_reuse, True), ("reparameterized", "quasi", "Gamma", "disarm", "vmap")),
    "checks of leaks": Mode(jax.checking_leaks, (*FEW, "svi")),
}  # fmt: skip
SLOW = ("64 bits", "legacy keys", "threefry that is not partitionable", "checks of key reuse")  # the others fail first
REFUSED = {
    ("disable_jit", "measure"): "measure: it compiles what it measures, but jax.disable_jit is set; leave that context",
    ("disable_jit", "sweep"): "sweep: it compiles what it measures, but jax.disable_jit is set; leave that context",
    ("rbg keys", "fit"): "fit: key is of the kind rbg",
    ("rbg keys", "measure"): "measure: key is of the kind rbg",
    ("rbg keys", "sweep"): "sweep: key is of the kind rbg",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW else n for n in MODES])
def test_every_mode(name):
    mode = MODES[name]
    with mode.context():
        for number, job in enumerate(mode.jobs):
            key = mode.make_key(number)
            if (name, job) in REFUSED:
                with pytest.raises(ValueError, match=REFUSED[name, job]):
                    JOBS[job](key)
            elif mode.traced and job not in RUN:
                jax.make_jaxpr(JOBS[job])(key)
            else:
                for leaf in jax.tree.leaves(JOBS[job](key)):
                    assert np.isfinite(leaf).all(), job


def test_compare_needs_compilation():
    with jax.disable_jit(), pytest.raises(ValueError, match="compare: it compiles what it measures"):
        rgrad.compare(Square, key=jax.random.key(0))
