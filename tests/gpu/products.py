"""Part b7: random programs against NumPy in 64 bits, and the products within rgrad.

On a GPU, XLA may round the factors of a 32-bit product to 10 bits (TF32). So the programs must be right with the
precision "highest". Their errors with the default precision are recorded, and they must only be those of TF32.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import rgrad
from tests.gpu.context import Context
from tests.gpu.report import say
from tests.random_programs import Jax, Program, programs, tolerance, truth

COARSE = 2e-2  # of the largest number: wrong sums are off by more
PRECISIONS = ("highest", "default")


def check_products(ctx: Context) -> None:
    chosen = programs(ctx.size(60, 3), seed=19)

    def run(program: Program, precision: str) -> tuple[bool, dict[str, Any]]:
        with jax.default_matmul_precision(precision):
            got = np.asarray(jax.jit(lambda a: program.function(Jax(), *a))(program.arguments), float)
        want = truth(program)
        off, size = float(np.abs(got - want).max()), float(np.abs(want).max())
        most = tolerance(program, want)
        found = {"error": off, "largest number": size, "tolerance": most, "precision": precision}
        return off <= (most if precision == "highest" else max(most, COARSE * (1 + size))), found

    names = {f"{i}: {program.name}"[:120]: program for i, program in enumerate(chosen)}
    jobs: dict[str, Any] = {
        f"{name} ({precision})": partial(run, program, precision)
        for precision in PRECISIONS[: ctx.size(2, 1)]
        for name, program in names.items()
    }
    for precision in PRECISIONS:
        jobs[f"location_scale: mu + C eps ({precision})"] = partial(affine, precision)
    ctx.checks_in_threads(jobs)
    for precision in PRECISIONS:
        done = [c for c in ctx.mine["checks"].values() if c.get("precision") == precision]
        exact = sum(c["error"] <= c["tolerance"] for c in done)
        ctx.note(f"precision {precision}", {"within the rounding of 32 bits": exact, "of": len(done)})
        say(f"   precision {precision}: {exact} of {len(done)} are within the rounding of 32 bits")


def affine(precision: str) -> tuple[bool, dict[str, Any]]:
    """Samples of mu + C eps in 30 dimensions, from eps recovered with mu = 0 and C = I."""
    d, n = 30, 200
    rng = np.random.default_rng(0)
    mu, c = rng.standard_normal(d), rng.standard_normal((d, d))
    base = dist.Normal(0.0, 1.0)
    sample = lambda mu, c: rgrad.location_scale(mu, c, base).rsample(jax.random.key(1), (n,))
    with jax.default_matmul_precision(precision):
        eps, got = jax.jit(lambda mu, c: (sample(jnp.zeros(d), jnp.eye(d)), sample(mu, c)))(
            jnp.asarray(mu, jnp.float32), jnp.asarray(c, jnp.float32)
        )
    want = mu.astype(np.float32).astype(float) + np.asarray(eps, float) @ c.astype(np.float32).astype(float).T
    off, size = float(np.abs(np.asarray(got, float) - want).max()), float(np.abs(want).max())
    most = 1e-5 * size
    ok = off <= (most if precision == "highest" else COARSE * size)
    return ok, {"error": off, "largest number": size, "tolerance": most, "precision": precision}
