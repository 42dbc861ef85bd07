"""The contenders of `experiments.benchmark`: each does the same job in its own way.

The job: gradients of E[x^2], x ~ N(theta, 1), at theta = 2, from n samples. The score function is mean (x^2 e), the
reparameterized gradient is mean (2 x), with x = theta + e and the same normal e for both. The result is the mean and the
variance of both over the replicates.
"""

import ctypes
import importlib.util
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.benchmark.c import compiled

THETA = 2.0
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
OURS = "rgrad"
TORCH_DRAWS = 2**18  # draws in one call of PyTorch
BLOCK = 2**14  # numbers in a block of NumPy: 64 KB, which fit into the cache of a core


class RivalMoments(NamedTuple):
    """Moments of a call over the replicates: first the score function, then reparameterization."""

    replicates: int
    """The actual number: as requested, or rounded up to whole batches."""
    mean: tuple[float, float]
    variance: tuple[float, float]


Job = Callable[[int, int], RivalMoments]
"""Maps (replicates, seed) to the moments."""


class Missing(Exception):
    """A contender cannot run here. The message says why."""


class WrongResult(RuntimeError):
    """A contender computes a wrong result, so its time would be meaningless."""


def rows_for(n: int, draws: int) -> int:
    """The number of replicates of n samples, a power of two, that gives about this many draws."""
    return max(1, 2 ** round(np.log2(draws / n)))


def of_sums(count: int, sums: Any) -> RivalMoments:
    """Moments from sums of g - 2 theta and its square, for each estimator."""
    a, aa, b, bb = (float(x) / count for x in sums)
    unbiased = count / (count - 1)
    return RivalMoments(count, (2 * THETA + a, 2 * THETA + b), (unbiased * (aa - a * a), unbiased * (bb - b * b)))


def sums_of(score: Any, path: Any) -> tuple[Any, ...]:
    """The sums for `of_sums`, from the two gradients of many replicates."""
    g, h = score - 2 * THETA, path - 2 * THETA
    return g.sum(), (g * g).sum(), h.sum(), (h * h).sum()


def ours(n: int) -> Job:
    """The public API, used as in the README."""

    def loss(theta: Any, key: Array, estimator: rgrad.Estimator) -> Array:
        return rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, n, estimator)

    def draw(key: Array) -> tuple[Array, ...]:
        return tuple(jax.grad(loss)(THETA, key, e) for e in (rgrad.score_function, rgrad.reparameterized))

    def job(replicates: int, seed: int) -> RivalMoments:
        moments = rgrad.measure(draw, jax.random.key(seed), replicates)
        pair = lambda x: (float(x[0]), float(x[1]))
        return RivalMoments(replicates, pair(moments.mean), pair(moments.variance))

    return job


def numpy_loop(n: int) -> Job:
    """Naive code: a Python loop over replicates, in 64 bits."""

    def job(replicates: int, seed: int) -> RivalMoments:
        random = np.random.default_rng(seed)
        score, path = np.empty(replicates), np.empty(replicates)
        for r in range(replicates):
            x = random.normal(THETA, 1.0, n)
            score[r] = np.mean(x**2 * (x - THETA))
            path[r] = np.mean(2 * x)
        return of_sums(replicates, sums_of(score, path))

    return job


def numpy_threads(n: int) -> Job:
    """Fast NumPy: a thread for each core, 32 bits, SFC64, and blocks that fit into the cache."""
    rows, piece = rows_for(n, BLOCK), min(n, BLOCK)
    across = n < 256  # sums are fast along a long contiguous axis, or across a short one

    def part(blocks: int, seed: np.random.SeedSequence) -> Any:
        random = np.random.Generator(np.random.SFC64(seed))
        memory = np.empty((2, rows * piece), np.float32)
        total = np.zeros(4)
        for _ in range(blocks):
            score, path = np.zeros(rows), np.zeros(rows)
            for first in range(0, n, piece):
                k = min(piece, n - first)
                e, x = memory[:, : k * rows].reshape((2, k, rows) if across else (2, rows, k))
                random.standard_normal(out=e, dtype=np.float32)
                np.add(e, np.float32(THETA), out=x)
                path += 2 * x.sum(0 if across else 1)
                x *= x
                score += np.einsum("ij,ij->j" if across else "ij,ij->i", x, e)
            total += sums_of(score / n, path / n)
        return total

    def job(replicates: int, seed: int) -> RivalMoments:
        blocks = -(-replicates // (rows * CORES))
        seeds = np.random.SeedSequence(seed).spawn(CORES)
        with ThreadPoolExecutor(CORES) as pool:
            return of_sums(CORES * blocks * rows, sum(pool.map(part, [blocks] * CORES, seeds)))

    return job


def in_calls(n: int, draws: int, call: Callable[[int, int], Any]) -> Job:
    """A job that makes calls `call(rows, number) -> sums` of a fixed size, and adds them up in 64 bits."""

    def job(replicates: int, seed: int) -> RivalMoments:
        rows = rows_for(n, draws)
        calls = [call(rows, seed + i) for i in range(-(-replicates // rows))]
        return of_sums(rows * len(calls), np.sum([[float(x) for x in sums] for sums in calls], axis=0))

    return job


def torch_module() -> Any:
    if importlib.util.find_spec("torch") is None:
        raise Missing("torch is not installed; pip install -e '.[benchmark]'")
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    return torch


def best_threads(torch: Any, call: Callable[[], Any]) -> Callable[[], None]:
    """Sets the number of threads of PyTorch to one or to the number of cores, whichever is faster.

    On a busy machine, threads that wait for each other can be ten times slower than one thread.
    """

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        call()
        took = []
        for _ in range(3):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        return min(took)

    best = min({1, CORES}, key=seconds)
    return lambda: torch.set_num_threads(best)


def torch_job(torch: Any, n: int, sums: Callable[[int], Any]) -> Job:
    """A job that calls `sums(rows)` repeatedly."""

    def call(rows: int, seed: int) -> Any:
        torch.manual_seed(seed)
        return sums(rows)

    rows = rows_for(n, TORCH_DRAWS)
    set_threads = best_threads(torch, lambda: [float(x) for x in call(rows, 0)])
    job = in_calls(n, TORCH_DRAWS, call)

    def with_threads(replicates: int, seed: int) -> RivalMoments:
        set_threads()
        return job(replicates, seed)

    return with_threads


def torch_eager(n: int) -> Job:
    """Ordinary PyTorch: batched, with one backward pass for each estimator."""
    torch = torch_module()

    def sums(rows: int) -> Any:
        theta = torch.full((rows, 1), THETA, requires_grad=True)
        x = theta + torch.randn(rows, n)
        (path,) = torch.autograd.grad((x**2).mean(1).sum(), theta)
        x = x.detach()
        (score,) = torch.autograd.grad((x**2 * (-((x - theta) ** 2) / 2)).mean(1).sum(), theta)
        return sums_of(score, path)

    return torch_job(torch, n, sums)


def torch_gradients(torch: Any) -> Callable[..., Any]:
    """The sums of many replicates, with torch.func."""

    def path(theta: Any, e: Any) -> Any:
        return ((theta + e) ** 2).mean()

    def score(theta: Any, e: Any) -> Any:
        x = (theta + e).detach()
        return (x**2 * (-((x - theta) ** 2) / 2)).mean()

    def sums(e: Any) -> Any:
        theta = torch.tensor(THETA)
        both = lambda e: (torch.func.grad(score)(theta, e), torch.func.grad(path)(theta, e))
        return sums_of(*torch.func.vmap(both)(e))

    return sums


def torch_func(n: int) -> Job:
    """vmap of grad."""
    torch = torch_module()
    sums = torch_gradients(torch)
    return torch_job(torch, n, lambda rows: sums(torch.randn(rows, n)))


def torch_compile(n: int) -> Job:
    """The same, compiled. Random numbers are drawn outside, which is ten times faster on a CPU."""
    torch = torch_module()
    torch.compiler.reset()  # drop the programs of other n: torch keeps only eight and then stops compiling
    sums = torch.compile(torch_gradients(torch), dynamic=False)
    try:
        return torch_job(torch, n, lambda rows: sums(torch.randn(rows, n)))
    except Exception as error:
        raise Missing(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from None


def loss_by_path(theta: Any, e: Array) -> Array:
    return jnp.mean((theta + e) ** 2)


def loss_by_score(theta: Any, e: Array) -> Array:
    x = jax.lax.stop_gradient(theta + e)
    return jnp.mean(x**2 * (-((x - theta) ** 2) / 2))


def both_gradients(e: Array) -> tuple[Array, Array]:
    return jax.grad(loss_by_score)(THETA, e), jax.grad(loss_by_path)(THETA, e)


def jax_naive(n: int) -> Job:
    """jit(vmap(grad)) with a key for each replicate, then means and variances of the results."""
    gradients = jax.jit(jax.vmap(lambda key: both_gradients(jax.random.normal(key, (n,)))))

    def call(rows: int, seed: int) -> Any:
        return sums_of(*(np.asarray(g, np.float64) for g in gradients(jax.random.split(jax.random.key(seed), rows))))

    return in_calls(n, 2**20, call)


def jax_streamed(n: int) -> Job:
    """A loop in one program that adds up the sums of batches, with one key per batch."""
    rows = rows_for(n, 2**18)

    @jax.jit
    def sums(key: Array, batches: Any) -> Any:
        def batch(i: Any, sums: Any) -> Any:
            e = jax.random.normal(jax.random.fold_in(key, i), (rows, n))
            return jax.tree.map(jnp.add, sums, sums_of(*jax.vmap(both_gradients)(e)))

        return jax.lax.fori_loop(0, batches, batch, (jnp.zeros(()),) * 4)

    def job(replicates: int, seed: int) -> RivalMoments:
        batches = -(-replicates // rows)
        return of_sums(rows * batches, sums(jax.random.key(seed), batches))

    return job


def c_reference(n: int) -> Job:
    """C on all cores, only for this problem: threefry, Box-Muller and the sums in one loop."""
    function, why = compiled()
    if function is None:
        raise Missing(why)

    def job(replicates: int, seed: int) -> RivalMoments:
        total = (ctypes.c_double * 4)()
        function(seed, n, replicates, THETA, CORES, total)
        return of_sums(replicates, total)

    return job


CONTENDERS: dict[str, Callable[[int], Job]] = {
    OURS: ours,
    "numpy loop": numpy_loop,
    "numpy threads": numpy_threads,
    "torch eager": torch_eager,
    "torch.func": torch_func,
    "torch.compile": torch_compile,
    "jax naive": jax_naive,
    "jax streamed": jax_streamed,
    "C": c_reference,
}
