"""Part b5: 64 bits, and exact moments."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import rgrad
from tests.gpu.context import Context
from tests.gpu.judging import Case, difference, judged, sampled
from tests.gpu.post import THETA, post, post_errors, right
from tests.gpu.problems import Square
from tests.gpu.truths import LOO

N = 10
LOGITS = np.array([0.4, -0.3])
Found = tuple[bool, dict[str, Any]]


def of_bits(b: Any) -> Any:
    return (jnp.sum(b) - 0.3) ** 2


def bits(logits: Any) -> Any:
    return dist.Bernoulli(logits=logits).to_event(1)


def true_gradient() -> np.ndarray:
    p = 1 / (1 + np.exp(-LOGITS))
    return np.array([p[i] * (1 - p[i]) * (1 - 0.6 + 2 * p[1 - i]) for i in range(2)])


def in_64_bits(job: Callable[[], Found]) -> Callable[[], Found]:
    """The setting belongs to a thread, so it is made in the thread of the job."""

    def run() -> Found:
        with jax.enable_x64(True):
            return job()

    return run


def entropies() -> Found:
    """The sampled and the exact entropy of an ELBO give the same gradient."""
    mu, c = jnp.array([0.5, -1.0]), jnp.array([[1.0, 0.3], [0.5, 0.8]])

    def gradient(key: Any, entropy: str) -> Any:
        q = lambda p: rgrad.location_scale(p[0], p[1], dist.Normal(0.0, 1.0))
        return jax.grad(lambda p: rgrad.elbo(lambda z: -jnp.sum(z**4), q(p), key, N, entropy=entropy))((mu, c))

    both = jax.jit(lambda key: (gradient(key, "sampled"), gradient(key, "exact")))(jax.random.key(2))
    found = difference(*jax.device_get(both))
    return found["relative"] < 1e-12, found


def enumerated() -> Found:
    loss = lambda a: rgrad.expect(of_bits, bits(a), jax.random.key(0), 1, rgrad.enumerated)
    got, want = jax.jit(jax.grad(loss))(LOGITS), true_gradient()
    return float(np.abs(np.asarray(got) - want).max()) < 1e-13, {"got": got, "want": want}


def rebar(replicates: int) -> Found:
    draw = lambda key: jax.grad(lambda a: rgrad.expect(of_bits, bits(a), key, N, rgrad.rebar))(jnp.asarray(LOGITS))
    return judged(Case(lambda: draw, true_gradient()), sampled(draw, jax.random.key(3), replicates))


def exact(estimator: Any, want: tuple[float, ...]) -> Found:
    found = rgrad.exact_moments(Square(), estimator)
    got = None if found is None else [float(x["loc"]) for x in (found.mean, found.per_sample, found.per_pair)]
    return got is not None and bool(np.allclose(got, want, rtol=1e-9, atol=1e-9)), {"got": got, "want": want}


def gradients(replicates: int) -> Found:
    found = post_errors(rgrad.measure(post(N), jax.random.key(1), replicates), N)
    dtypes = {str(g.dtype) for g in jax.eval_shape(post(N), jax.random.key(0))}
    return right(found) and dtypes == {"float64"}, found | {"dtypes": sorted(dtypes)}


def streamed(replicates: int) -> Found:
    """Moments streamed in 32 bits, and those of the same 32-bit draws streamed in 64 bits."""

    def draw(key: Any) -> Any:
        def loss(theta: Any, estimator: Any) -> Any:
            return rgrad.expect(lambda x: x**2, dist.Normal(theta, jnp.float32(1)), key, N, estimator)

        with jax.enable_x64(False):
            both = (rgrad.score_function, rgrad.reparameterized)
            return jnp.stack([jax.grad(loss)(jnp.float32(THETA), e) for e in both])

    narrow = rgrad.measure(draw, jax.random.key(6), replicates)
    with jax.enable_x64(True):
        full = rgrad.measure(lambda key: draw(key).astype(jnp.float64), jax.random.key(6), replicates)
    found = {
        what: float(np.max(np.abs(np.asarray(getattr(narrow, what)) / np.asarray(getattr(full, what)) - 1)))
        for what in ("mean", "variance")
    }
    return max(found.values()) < 1e-6, found | {"replicates": replicates}


def check_wide(ctx: Context) -> None:
    jobs: dict[str, Callable[[], Found]] = {
        "moments streamed in 32 and in 64 bits": partial(streamed, ctx.size(20_000_000, 20_000)),
        "enumerated bits": in_64_bits(enumerated),
        "exact_moments, leave_one_out": partial(exact, LOO, (4.0, 42.0, 34.0)),
        "both gradients of x^2": in_64_bits(partial(gradients, ctx.size(100_000, 2_000))),
        "two entropies of an ELBO": in_64_bits(entropies),
        "rebar": in_64_bits(partial(rebar, ctx.size(50_000, 1_000))),
        "exact_moments, reparameterized": partial(exact, rgrad.reparameterized, (4.0, 4.0, 0.0)),
        "exact_moments, score_function": partial(exact, rgrad.score_function, (4.0, 87.0, 0.0)),
    }
    ctx.checks_in_threads({name: jobs[name] for name in list(jobs)[: ctx.size(None, 3)]})
