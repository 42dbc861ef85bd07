"""Part c1: draws per second of the noise, by the way it is made, the numbers in flight and n. It leaves the winners."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax

from tests.gpu.context import Context
from tests.gpu.noise_forms import BLOCKS, FEW, GRADIENTS, OURS, forms
from tests.gpu.noise_programs import noise_program, operations_per_draw, rate_of
from tests.gpu.report import say

MOST_Z = 6.0
BY_ROW, PAIRS = "jax.random.normal, a key for each row", "pairs, polynomials"
JOINED, KEPT = "pairs joined to one array", "pairs joined, kept in memory"
CORE = (OURS, BY_ROW, PAIRS, JOINED, KEPT, GRADIENTS)
FOR_SHORT_ROWS = (BLOCKS, PAIRS, OURS, BY_ROW, "jax.random.normal, one key", GRADIENTS, KEPT, JOINED,
                  "pairs, polynomials, one reduction")  # fmt: skip
# These are not normals that an estimator could use: their draws depend on the batch, or they are only bits.
NOT_CHOSEN = ("rbg", "threefry", GRADIENTS)


class Setting(NamedTuple):
    form: str
    flight: int
    """The numbers in flight, a power of two."""
    n: int

    @property
    def rows(self) -> int:
        return max(1, self.flight // self.n)

    @property
    def label(self) -> str:
        return f"{self.form}, n = {self.n}, 2^{int(math.log2(self.flight))}"


def plan(tiny: bool) -> tuple[list[Setting], list[Setting]]:
    """The settings that are compiled one after the other, and those that are compiled side by side."""
    if tiny:
        return [Setting(OURS, 2**16, 1_000), Setting(PAIRS, 2**16, 1_000)], [Setting(BLOCKS, 2**16, 10)]
    middle, others = 2**24, (2**26, 2**22, 2**20, 2**18)
    first = [Setting(name, middle, 1_000) for name in forms() if name != BLOCKS]
    rest = [Setting(name, middle, 10) for name in FOR_SHORT_ROWS]
    rest += [Setting(name, middle, 100_000) for name in CORE]
    for flight in others:
        rest += [Setting(name, flight, 1_000) for name in CORE]
        rest += [Setting(name, flight, 10) for name in FOR_SHORT_ROWS[:4]]
        rest += [Setting(name, flight, 100_000) for name in CORE[:3]]
    for flight in others:
        rest += [Setting(name, flight, 1_000) for name in forms() if name not in (*CORE, BLOCKS)]
    return first, [s for s in rest if s.flight >= 2 * s.n and (s.form != BLOCKS or s.n <= FEW)]


def measure_noise(ctx: Context) -> None:
    every, target = forms(), ctx.size(0.03, 0.005)
    keys = {True: jax.random.key(3, impl="rbg"), False: jax.random.key(3)}
    key_of = lambda s: keys[s.form.startswith("rbg")]

    def build(s: Setting) -> Any:
        return noise_program(every[s.form], s.rows, s.n, key_of(s))

    def time_one(s: Setting, built: Any, single: bool) -> None:
        program, seconds = built
        draws = s.rows * s.n
        found = rate_of(program, key_of(s), draws, target)
        found |= {"form": s.form, "n": s.n, "in flight": f"2^{int(math.log2(s.flight))}", "rows": s.rows}
        found |= {"compile seconds": seconds, "compiled on its own": single}
        if single:
            found["operations per draw"] = operations_per_draw(program.as_text(), draws)
        ctx.row(s.label, **found)
        if "z" in found and s.form != GRADIENTS:
            ctx.check(s.label, found["z"] < MOST_Z, z=found["z"], mean=found["mean"])

    first, rest = plan(ctx.tiny)
    for s in first:
        if ctx.enough(3, s.label):
            try:
                time_one(s, ctx.limited(s.label, partial(build, s), 20), True)
            except Exception as error:
                ctx.failed(s.label, error)
                continue
            row = ctx.mine["rows"][s.label]
            say(f"   {s.label:60s} {row['rate']:.3g}/s; compiled in {row['compile seconds']:.2f} s")
    group = max(2, 2 * ctx.workers)
    while rest:
        if ctx.left() < ctx.size(6, 1):
            ctx.skip(f"{len(rest)} programs of the table")
            break
        now, rest = rest[:group], rest[group:]
        built = ctx.in_threads({s.label: partial(build, s) for s in now}, 30)
        for s in now:
            program = built.get(s.label)
            try:
                if isinstance(program, BaseException):
                    raise program
                if program is not None:
                    time_one(s, program, False)
            except Exception as error:
                ctx.failed(s.label, error)
    leave_best(ctx)


def leave_best(ctx: Context) -> None:
    """Notes: the best rate of each form by n, and the fastest form by n and numbers in flight."""
    best: dict[str, Any] = {}
    winners: dict[str, Any] = {}
    for row in ctx.mine["rows"].values():
        size, form, rate = f"n = {row['n']}", row["form"], row["rate"]
        of_form = best.setdefault(size, {})
        if rate > of_form.get(form, {}).get("rate", 0):
            of_form[form] = {"rate": rate, "in flight": row["in flight"]}
        of_size = winners.setdefault(size, {})
        if not form.startswith(NOT_CHOSEN) and rate > of_size.get(row["in flight"], {}).get("rate", 0):
            of_size[row["in flight"]] = {"form": form, "rate": rate}
    ctx.note("best", best)
    ctx.note("winners", winners)
    for size, of in winners.items():
        say(
            f"   {size}: "
            + "; ".join(f"{flight} {found['form']} {found['rate']:.3g}/s" for flight, found in of.items())
        )
