"""Part d8: whether loops are faster if the compiler may put them into CUDA graphs."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax

import rgrad
from tests.gpu.context import Context, seconds_of
from tests.gpu.noise_forms import pairs
from tests.gpu.noise_programs import noise_program, rate_of
from tests.gpu.report import named, say

OPTION = "xla_gpu_enable_command_buffer"
SETTINGS: dict[str, dict[str, str] | None] = {
    "default": None,
    "with WHILE": {OPTION: "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE,DYNAMIC_SLICE_FUSION"},
    "FUSION and WHILE": {OPTION: "FUSION,WHILE"},
    "none": {OPTION: ""},
}


def graph_rates(ctx: Context) -> None:
    count, steps = ctx.size((1_000, 2_000), (20, 20))
    rows, n = ctx.size((2**12, 64), (2**8, 64))
    key = jax.random.key(3)
    keys = jax.random.split(key, count)
    optimizer = optax.adam(0.05)

    def loss(params: Any, key: Any) -> Any:
        q = dist.Normal(params["mu"], jnp.exp(params["log_sigma"]))
        return rgrad.expect(lambda y: (y - 3.0) ** 2 / 8, q, key, 10) - params["log_sigma"]

    start = {"mu": 0.0, "log_sigma": 0.0}
    fit = lambda k: rgrad.fit(loss, start, optimizer, k, steps, record=None).params
    for name in list(SETTINGS)[: ctx.size(None, 1)]:
        if not ctx.enough(ctx.size(4, 1), name):
            continue
        options, found = SETTINGS[name], {}
        try:
            program, _ = ctx.limited(f"noise, {name}", partial(noise_program, pairs, rows, n, key, options), 20)
            found["rate of noise in small steps"] = rate_of(program, key, rows * n, ctx.size(0.03, 0.005))["rate"]
        except Exception as error:
            found["noise"] = named(error, 200)
        try:
            build = lambda options=options: jax.jit(jax.vmap(fit), compiler_options=options).lower(keys).compile()
            compiled = ctx.limited(f"fits, {name}", build, 20)
            call = lambda compiled=compiled: jax.block_until_ready(compiled(keys))
            call()
            found["fits, microseconds a step"] = min(seconds_of(call)[0] for _ in range(3)) / steps * 1e6
        except Exception as error:
            found["fits"] = named(error, 200)
        ctx.row(name, **found)
        say(f"   {name}: {found}")
