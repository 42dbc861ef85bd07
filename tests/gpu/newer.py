"""Part b9: programs, NumPyro's SVI, the noise of a whole gradient, and audits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI

import rgrad
from tests.gpu.context import Context
from tests.gpu.judging import Case, judged, sampled

THETA, X = 0.4, 1.3
LOO = partial(rgrad.score_function, baseline=rgrad.leave_one_out)


def program_slope() -> float:
    """d/dtheta E[(x - b)^2], x ~ N(theta, 1), b ~ Bernoulli(logits=x), by quadrature in 64 bits."""
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    x = THETA + node
    p = 1 / (1 + np.exp(-x))
    return float((weight / weight.sum()) @ (node * (p * (x - 1) ** 2 + (1 - p) * x**2)))


def of_program(estimator: Any, key: Any) -> Any:
    def loss(theta: Any) -> Any:
        def program(draw: rgrad.Draw) -> Any:
            x = draw(dist.Normal(theta, 1.0))
            return (x - draw(dist.Bernoulli(logits=x), estimator)) ** 2

        return rgrad.expect_program(program, key, n=4)

    return jax.grad(loss)(THETA)


def model() -> None:
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=X)


def guide() -> None:
    loc = numpyro.param("loc", jnp.asarray(0.2))
    numpyro.sample("z", dist.Normal(loc, 0.5))


def of_svi(estimator: Any, key: Any) -> Any:
    """The gradient of the loss in `loc`; its mean is 2 loc - x."""
    loss = rgrad.SVILoss(4, {"z": estimator})
    svi = SVI(model, guide, optax.sgd(1.0), loss)
    state = svi.init(key)
    before = svi.get_params(state)["loc"]
    return before - svi.get_params(svi.update(state)[0])["loc"]


def check_newer(ctx: Context) -> None:
    replicates, key = ctx.size(100_000, 2_000), jax.random.key(6)
    slope = program_slope()
    cases = {
        "a program, enumerated": (partial(of_program, rgrad.enumerated), slope),
        "a program, leave-one-out": (partial(of_program, LOO), slope),
        "SVI, reparameterized": (partial(of_svi, rgrad.reparameterized), 2 * 0.2 - X),
        "SVI, leave-one-out": (partial(of_svi, LOO), 2 * 0.2 - X),
    }
    jobs: dict[str, Callable[[], tuple[bool, dict[str, Any]]]] = {
        name: lambda draw=draw, mean=mean: judged(Case(lambda: draw, mean), sampled(draw, key, replicates))
        for name, (draw, mean) in cases.items()
    }
    jobs["measure_total"] = partial(whole_noise, ctx.size(20_000, 2_000))
    jobs |= {f"audit, {word}": partial(audited, word, ctx.size(3.0, 0.5)) for word in ("ok", "BIASED")}
    tiny = ["a program, enumerated", "SVI, leave-one-out", "measure_total", "audit, BIASED"]
    ctx.checks_in_threads({name: jobs[name] for name in ctx.size(list(jobs), tiny)})


def whole_noise(replicates: int) -> tuple[bool, dict[str, Any]]:
    """1,000 elements of mean 1/10 and variance 1. The interval is wide enough for a false failure below 1e-6."""
    draw = lambda key: 0.1 + jax.random.normal(key, (1_000,))
    whole = rgrad.measure_total(draw, jax.random.key(7), replicates, level=1 - 1e-7).whole
    found = {name: getattr(whole, name)._asdict() for name in ("variance", "squared_mean", "noise_scale")}
    truth = {"variance": 1_000.0, "squared_mean": 10.0, "noise_scale": 100.0}
    return all(found[name]["low"] <= value <= found[name]["high"] for name, value in truth.items()), found


def audited(word: str, budget: float) -> tuple[bool, dict[str, Any]]:
    """A bit that is drawn by a comparison has no gradient. Its score function is right."""

    def cut(p: Any, key: Any) -> Any:
        return (jnp.where(jax.random.uniform(key) < p, 1.0, 0.0) - 0.3) ** 2

    def right(p: Any, key: Any) -> Any:
        return rgrad.expect(lambda b: (b - 0.3) ** 2, dist.Bernoulli(probs=p), key, 4, rgrad.score_function)

    found = rgrad.audit(right if word == "ok" else cut, 0.4, jax.random.key(8), budget=budget)
    named = [(c.operation, c.line) for c in found.cuts]
    ok = found.verdict == word and (word == "ok" or [operation for operation, _ in named] == ["lt"])
    return ok, {"verdict": found.verdict, "cuts": named, "spent": found.spent, "compiled": found.compile_seconds}
