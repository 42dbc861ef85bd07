"""A compiled loop over batches of noise: how it is made, its rate, and the operations in its text."""

import math
import re
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.gpu.context import seconds_of

INTEGER = {
    "add", "subtract", "multiply", "xor", "and", "or", "not", "negate", "shift-left", "shift-right-logical",
    "shift-right-arithmetic", "compare", "select", "minimum", "maximum", "remainder", "divide",
}  # fmt: skip
NO_WORK = ("parameter", "broadcast", "get-tuple-element", "bitcast", "constant", "fusion")


def noise_program(form: Any, rows: int, n: int, key: Any, options: Any = None) -> tuple[Any, float]:
    """The compiled loop over a number of batches, each with its own key; and the seconds of its compilation."""
    make = form(rows, n)

    def run(key: Any, count: Any) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(make, key))
        body = lambda i, sums: jax.tree.map(jnp.add, sums, make(jax.random.fold_in(key, i)))
        return lax.fori_loop(0, count, body, zeros)

    began = time.perf_counter()
    compiled = jax.jit(run, compiler_options=options).lower(key, jnp.asarray(1, jnp.int32)).compile()
    return compiled, time.perf_counter() - began


def rate_of(program: Any, key: Any, draws: int, target: float) -> dict[str, Any]:
    """Draws per second, from the median of three calls or more, and the moments of the draws.

    Args:
        draws: in one turn of the loop.
        target: the approximate seconds of a call.
    """
    call = lambda turns: jax.block_until_ready(program(key, jnp.asarray(turns, jnp.int32)))
    call(1)
    turns, took = 1, seconds_of(lambda: call(1))[0]
    while took < target / 2 and turns < 2**20:
        turns = max(turns + 1, min(turns * 32, int(turns * target / max(took, 1e-6))))
        took = seconds_of(lambda: call(turns))[0]
    times = [took]
    while len(times) < 3:
        took, sums = seconds_of(lambda: call(turns))
        times.append(took)
    first, second = sums
    out = {"rate": turns * draws / statistics.median(times), "turns": turns, "seconds": times}
    if second is not None:
        total = float(turns * draws)
        m1, m2 = (float(np.asarray(x, np.float64).mean()) / turns for x in (first, second))
        out |= {"mean": m1, "second moment": m2, "z": max(abs(m1) * total**0.5, abs(m2 - 1) * (total / 2) ** 0.5)}
    return out


def operations_per_draw(text: str, draws: int) -> dict[str, Any]:
    """The operations on whole arrays per draw, from the text of a compiled program.

    The body of a loop counts once, because it runs once in each turn. Work that two kernels repeat counts twice.
    """
    counts: dict[str, float] = {}
    for kind, shape, operation in re.findall(r"= (u32|s32|f32|pred)\[([\d,]*)\]\S* ([a-z][a-z\-]*)\(", text):
        size = math.prod(int(d) for d in shape.split(",") if d)
        if size * 16 >= draws and operation not in NO_WORK:
            sort = "integer" if kind in ("u32", "s32") and operation in INTEGER else "other"
            counts[f"{sort} {operation}"] = counts.get(f"{sort} {operation}", 0) + size / draws
    integer = sum(v for k, v in counts.items() if k.startswith("integer"))
    # A rotation is two shifts and an `or` in the text, and one instruction on the chip.
    rotations = min(counts.get("integer or", 0), counts.get("integer shift-left", 0))
    return {
        "integer": integer,
        "integer, a rotation as one": integer - 2 * rotations,
        "other": sum(v for k, v in counts.items() if k.startswith("other")),
        "fusions in the text": len(re.findall(r"^\s+(?:ROOT )?\S+ = .* fusion\(", text, re.MULTILINE)),
    }
