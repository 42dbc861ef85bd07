"""Gradients by other libraries, each in a process of its own: `python peer_script.py LIBRARY JOB CALLS`.

It imports only the library, so it runs in any environment that has it. It prints a JSON line with the mean and the
variance of the gradients of a first turn. Then, for each line that it reads, it takes a turn of CALLS gradients, and
prints its gradients per second.

Jobs: `normal` is d/d theta of E[x^2], x ~ N(theta, 1), at theta = 2, by the score function with 1,000 samples. `bits` is
the score function with 100 samples of `E sum (b - .499)^2` for 200 bits with logits .3. Its first entry is reported.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import fmean, variance
from typing import Any

THETA, SAMPLES = 2.0, {"normal": 1_000, "bits": 100}
BITS, TARGET, LOGIT = 200, 0.499, 0.3
Gradient = Callable[[int], float]  # the number of the call -> d/d theta, or the first entry of the gradient


def jitted(job: str, loss: Callable[[Any, Any], Any]) -> Gradient:
    """The gradient of a JAX loss of (parameter, key)."""
    import jax
    import jax.numpy as jnp

    start = THETA if job == "normal" else jnp.full(BITS, LOGIT)
    gradient, root = jax.jit(jax.grad(loss)), jax.random.key(0)
    keys = jax.jit(jax.random.split, static_argnums=1)(root, 2**12)
    keys = list(keys)
    first = lambda g: g if job == "normal" else g[0]
    return lambda i: float(first(gradient(start, keys[i % len(keys)])))


def with_rgrad(job: str) -> Gradient:
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import rgrad

    if job == "normal":
        return jitted(
            job,
            lambda t, key: rgrad.expect(lambda x: x**2, dist.Normal(t, 1.0), key, SAMPLES[job], rgrad.score_function),
        )
    f = lambda b: jnp.sum((b - TARGET) ** 2)
    q = lambda logits: dist.Bernoulli(logits=logits).to_event(1)
    return jitted(job, lambda logits, key: rgrad.expect(f, q(logits), key, SAMPLES[job], rgrad.score_function))


def with_tfp(job: str) -> Gradient:
    import jax.numpy as jnp
    import tensorflow_probability.substrates.jax as tfp

    if job == "normal":
        q, f = lambda t: tfp.distributions.Normal(t, 1.0), lambda x: x**2
    else:
        q = lambda t: tfp.distributions.Independent(tfp.distributions.Bernoulli(logits=t, dtype=jnp.float32), 1)
        f = lambda b: jnp.sum((b - TARGET) ** 2, -1)

    def loss(t: Any, key: Any) -> Any:
        x = q(t).sample(SAMPLES[job], seed=key)
        return tfp.monte_carlo.expectation(f, x, log_prob=q(t).log_prob, use_reparameterization=False)

    return jitted(job, loss)


def with_distrax(job: str) -> Gradient:
    """distrax has no estimators: the surrogate is written by hand."""
    import distrax
    import jax
    import jax.numpy as jnp

    if job == "normal":
        q, f = lambda t: distrax.Normal(t, 1.0), lambda x: x**2
    else:
        q = lambda t: distrax.Independent(distrax.Bernoulli(logits=t, dtype=jnp.float32), 1)
        f = lambda b: jnp.sum((b - TARGET) ** 2, -1)

    def loss(t: Any, key: Any) -> Any:
        x = jax.lax.stop_gradient(q(t).sample(seed=key, sample_shape=SAMPLES[job]))
        return jnp.mean(f(x) * q(t).log_prob(x))

    return jitted(job, loss)


def with_optax(job: str) -> Gradient:
    """A perturbed function has the same gradient, for normal noise only."""
    import jax.numpy as jnp
    import optax

    if job != "normal":
        raise ImportError("optax perturbs by continuous noise only")
    perturbed = optax.perturbations.make_perturbed_fun(
        lambda x: x**2, num_samples=SAMPLES[job], sigma=1.0, noise=optax.perturbations.Normal()
    )
    return jitted(job, lambda t, key: perturbed(key, jnp.asarray(t)))


def with_genjax(job: str) -> Gradient:
    import jax
    import jax.numpy as jnp
    from genjax.adev import expectation, normal_reinforce

    if job != "normal":
        raise ImportError("GenJAX draws one bit at a time")
    objective = expectation(lambda t: normal_reinforce(t, 1.0) ** 2)
    one = lambda t, key: objective.grad_estimate(key, (t,))[0]
    gradient = jax.jit(lambda t, key: jnp.mean(jax.vmap(one, (None, 0))(t, jax.random.split(key, SAMPLES[job]))))
    keys = list(jax.random.split(jax.random.key(0), 2**12))
    return lambda i: float(gradient(THETA, keys[i % len(keys)]))


def with_numpyro(job: str) -> Gradient:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import TraceGraph_ELBO

    if job != "bits":
        raise ImportError("NumPyro reparameterizes a normal, without a choice")

    def model() -> None:
        b = numpyro.sample("b", dist.Bernoulli(logits=jnp.full(BITS, LOGIT)).to_event(1))
        numpyro.factor("f", -jnp.sum((b - TARGET) ** 2))

    def guide(logits: Any) -> None:
        numpyro.sample("b", dist.Bernoulli(logits=logits).to_event(1))

    def loss(logits: Any, key: Any) -> Any:
        return TraceGraph_ELBO(SAMPLES[job]).loss(key, {}, model, lambda: guide(logits))

    return jitted(job, loss)


def with_pyro(job: str) -> Gradient:
    import pyro
    import pyro.distributions as dist
    import torch

    torch.set_num_threads(2)
    start = torch.tensor(THETA) if job == "normal" else torch.full((BITS,), LOGIT)

    def guide() -> None:
        t = pyro.param("t", start.clone())
        if job == "normal":
            pyro.sample("x", dist.Normal(t, 1.0).has_rsample_(False))
        else:
            pyro.sample("x", dist.Bernoulli(logits=t).to_event(1))

    def model() -> None:
        if job == "normal":
            x = pyro.sample("x", dist.Normal(start, 1.0))
            pyro.factor("f", -(x**2))
        else:
            b = pyro.sample("x", dist.Bernoulli(logits=start).to_event(1))
            pyro.factor("f", -((b - TARGET) ** 2).sum(-1))

    elbo = pyro.infer.TraceGraph_ELBO(num_particles=SAMPLES[job], vectorize_particles=True, max_plate_nesting=0)

    def gradient(i: int) -> float:
        elbo.loss_and_grads(model, guide)
        t = pyro.param("t")
        g = float(t.grad if job == "normal" else t.grad[0])
        t.grad = None
        return g

    return gradient


def with_storchastic(job: str) -> Gradient:
    import storch
    import torch
    from torch.distributions import Bernoulli, Normal

    torch.set_num_threads(2)
    method = storch.method.ScoreFunction("x", n_samples=SAMPLES[job], baseline_factory=None)

    def gradient(i: int) -> float:
        storch.reset()
        t = (torch.tensor(THETA) if job == "normal" else torch.full((BITS,), LOGIT)).requires_grad_()
        x = method(Normal(t, 1.0) if job == "normal" else Bernoulli(logits=t))
        storch.add_cost(x**2 if job == "normal" else ((x - TARGET) ** 2).sum(-1), "cost")
        storch.backward()
        return float(t.grad if job == "normal" else t.grad[0])

    return gradient


LIBRARIES = {
    "rgrad": with_rgrad,
    "TFP on JAX": with_tfp,
    "distrax, by hand": with_distrax,
    "optax.perturbations": with_optax,
    "GenJAX": with_genjax,
    "NumPyro, TraceGraph_ELBO": with_numpyro,
    "Pyro, TraceGraph_ELBO": with_pyro,
    "Storchastic": with_storchastic,
}


def main(library: str, job: str, calls: int) -> None:
    try:
        gradient = LIBRARIES[library](job)
        values = [gradient(i) for i in range(calls)]
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"mean": fmean(values), "variance": variance(values)}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for i in range(calls):
            gradient(i)
        print(json.dumps({"rate": calls / (time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
