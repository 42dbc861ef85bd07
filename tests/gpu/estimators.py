"""Part b2: every estimator against its truth."""

from functools import partial
from typing import Any

import jax

import rgrad
from tests.gpu.context import Context, seconds_of
from tests.gpu.judging import Case, judged, sampled
from tests.gpu.report import say
from tests.gpu.truths import dependent_cases, family_cases, normal_cases, vector_cases
from tests.gpu.truths_bounds import bound_cases, elbo_cases, own_cases
from tests.gpu.truths_discrete import biased_cases, bit_cases, category_cases

GROUPS = (normal_cases, dependent_cases, family_cases, vector_cases, bit_cases, category_cases, biased_cases, elbo_cases,
          bound_cases, own_cases)  # fmt: skip


def cases(tiny: bool = False) -> dict[str, Case]:
    """All cases, or the first of each group."""
    groups = [group() for group in GROUPS]
    return {name: case for group in groups for name, case in list(group.items())[: 1 if tiny else None]}


def check_estimators(ctx: Context) -> None:
    replicates = ctx.size(100_000, 2_000)
    every = cases(ctx.tiny)

    def job(number: int, name: str) -> tuple[bool, dict[str, Any]]:
        case = every[name]
        seconds, moments = seconds_of(lambda: sampled(case.draw(), jax.random.key(1000 + number), replicates))
        ok, found = judged(case, moments)
        return ok, found | {"seconds": seconds}

    ctx.checks_in_threads({name: partial(job, i, name) for i, name in enumerate(every)})
    ctx.note("estimators without a case", [name for name in rgrad.ESTIMATORS if not covered(name, cases())])
    done = {name: c["z"] for name, c in ctx.mine["checks"].items() if isinstance(c.get("z"), float)}
    if done:
        largest = max(done, key=lambda name: done[name])
        ctx.note("cases", {"done": len(done), "of": len(every), "replicates": replicates, "largest z": done[largest]})
        say(
            f"   {len(done)} of {len(every)} cases of {replicates:,} replicates; largest |z| {done[largest]:.1f} ({largest})"
        )


def covered(estimator: str, names: Any) -> bool:
    """Whether some case has the name of the estimator, e.g. `score_function+leave_one_out`, in its own."""
    return any(all(word in name for word in estimator.split("+")) for name in names)
