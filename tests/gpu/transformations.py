"""Part b3: the same draws under every transformation, and second derivatives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax

import rgrad
from tests.gpu.context import Context
from tests.gpu.judging import Case, difference, judged, sampled
from tests.gpu.post import THETA, post
from tests.gpu.truths import LOO, loc_only, square
from tests.gpu.truths_bounds import nested

COUNT = 64  # keys
CLOSE = 2e-6

Draw = Callable[[Any], Any]
Found = tuple[bool, dict[str, Any]]


def flat(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(COUNT, *x.shape[2:]), tree)


def one_by_one(f: Draw, keys: Any) -> Any:
    return jax.tree.map(lambda *x: np.stack(x), *[jax.device_get(f(key)) for key in keys])


def ways(keys: Any) -> dict[str, Callable[[Draw], Any]]:
    """Ways to call a function with all keys."""
    square_of_keys = keys.reshape(8, -1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
    along = jax.sharding.PartitionSpec("d")
    return {
        "vmap": lambda f: jax.vmap(f)(keys),
        "jit vmap": lambda f: jax.jit(jax.vmap(f))(keys),
        "vmap vmap": lambda f: flat(jax.jit(jax.vmap(jax.vmap(f)))(square_of_keys)),
        "scan": lambda f: jax.jit(lambda: lax.scan(lambda c, k: (c, f(k)), 0, keys)[1])(),
        "map of vmap": lambda f: flat(jax.jit(lambda: lax.map(jax.vmap(f), square_of_keys))()),
        "shard_map": lambda f: jax.jit(jax.shard_map(jax.vmap(f), mesh=mesh, in_specs=along, out_specs=along))(keys),
    }


def check_transformations(ctx: Context) -> None:
    keys = jax.random.split(jax.random.key(11), COUNT)
    draws: dict[str, Draw] = {"gradients": post(10), "normals of 10": lambda k: rgrad.noise.normal(k, (10,))}
    if not ctx.tiny:
        draws["normals of 100"] = lambda k: rgrad.noise.normal(k, (100,))
    wanted = ctx.in_threads({name: partial(one_by_one, jax.jit(f), keys) for name, f in draws.items()})

    def compared(name: str, way: Callable[[Draw], Any]) -> Found:
        found = difference(wanted[name], jax.device_get(way(draws[name])))
        return found["relative"] < CLOSE, found

    every = ways(keys)
    if ctx.tiny:
        every = {name: every[name] for name in ("jit vmap", "scan", "shard_map")}
    jobs: dict[str, Any] = {f"{name}: {way}": partial(compared, name, every[way]) for name in draws for way in every}
    if not ctx.tiny:
        jobs["normals of 10: not compiled"] = partial(compared, "normals of 10", lambda f: one_by_one(f, keys))
    jobs["measure: batches and pieces"] = batches
    replicates = ctx.size(100_000, 2_000)
    hessians = {
        "hessian: score_function": (20, rgrad.score_function, square, {}),
        "hessian: leave_one_out": (21, LOO, square, {}),
        "hessian: nested": (22, LOO, nested, {"keyed": True}),
    }
    for label, job in list(hessians.items())[: ctx.size(3, 1)]:
        jobs[label] = partial(hessian, replicates, *job)
    jobs["a second derivative that would be wrong raises"] = raises
    ctx.checks_in_threads(jobs)


def batches() -> Found:
    """`measure` gives the same moments for any batch, and in pieces."""
    key, replicates, draw = jax.random.key(12), 5_000, post(10)
    whole = rgrad.measure(draw, key, replicates)
    others = {
        "batch=64": rgrad.measure(draw, key, replicates, batch=64),
        "in pieces": rgrad.measure(draw, key, 1_234).merge(rgrad.measure(draw, key, replicates - 1_234, start=1_234)),
    }
    found = {
        f"{name}, {what}": difference(getattr(whole, what), getattr(other, what))["relative"]
        for name, other in others.items()
        for what in ("mean", "m2", "m4")
    }
    return max(found.values()) < CLOSE, found


def hessian(replicates: int, seed: int, estimator: Any, f: Any, options: Any) -> Found:
    """The second derivative of E[x^2] is 2."""
    of = lambda key: jax.hessian(lambda m: rgrad.expect(f, loc_only(m), key, 10, estimator, **options))(THETA)
    return judged(Case(lambda: of, 2.0), sampled(of, jax.random.key(seed), replicates))


def raises() -> Found:
    loss = lambda m: rgrad.expect(square, loc_only(m), jax.random.key(0), 10, rgrad.measure_valued)
    try:
        jax.hessian(loss)(THETA)
    except NotImplementedError as error:
        return True, {"message": str(error)}
    return False, {}
