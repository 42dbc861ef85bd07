"""The post's problem in PyTorch, in a separate process. It prints one line of JSON for each result.

It imports nothing but PyTorch. The argument `tiny` asks for a rehearsal on the CPU.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

THETA = 2.0
TINY = sys.argv[1:] == ["tiny"]
DEVICE = "cuda" if torch.cuda.is_available() and not TINY else "cpu"


def give(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def sums_of(score: Any, path: Any) -> Any:
    g, h = score - 2 * THETA, path - 2 * THETA
    return torch.stack([g.sum(), (g * g).sum(), h.sum(), (h * h).sum()])


def eager(rows: int, n: int) -> Any:
    theta = torch.full((rows, 1), THETA, device=DEVICE, requires_grad=True)
    x = theta + torch.randn(rows, n, device=DEVICE)
    (path,) = torch.autograd.grad((x**2).mean(1).sum(), theta)
    x = x.detach()
    (score,) = torch.autograd.grad((x**2 * (-((x - theta) ** 2) / 2)).mean(1).sum(), theta)
    return sums_of(score, path)


def by_func(e: Any) -> Any:
    def path(theta: Any, e: Any) -> Any:
        return ((theta + e) ** 2).mean()

    def score(theta: Any, e: Any) -> Any:
        x = (theta + e).detach()
        return (x**2 * (-((x - theta) ** 2) / 2)).mean()

    theta = torch.full((), THETA, device=DEVICE)
    both = lambda e: (torch.func.grad(score)(theta, e), torch.func.grad(path)(theta, e))
    return sums_of(*torch.func.vmap(both)(e))


def by_hand(rows: int, n: int) -> Any:
    e = torch.randn(rows, n, device=DEVICE)
    x = THETA + e
    return sums_of((x * x * e).mean(1), (2 * x).mean(1))


def sync() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measured(label: str, n: int, rows: int, call: Callable[[], Any]) -> None:
    """Print the rate of a call: draws per second, from the median of three rounds of at least 0.05 s."""
    try:
        torch.manual_seed(0)
        began = time.perf_counter()
        call()
        sync()
        first = time.perf_counter() - began
        times: list[float] = []
        turns = 1
        total = torch.zeros(4, device=DEVICE, dtype=torch.float64)
        while len(times) < 3:
            began = time.perf_counter()
            for _ in range(turns):
                total = total + call()
            sync()
            times.append((time.perf_counter() - began) / turns)
            if times[-1] * turns < 0.05 and turns < 2**12 and not TINY:
                turns, times = turns * 4, []
        give(label=label, n=n, rate=rows * n / statistics.median(times), first=first, seconds=times, turns=turns)
    except Exception as error:
        give(label=label, n=n, error=f"{type(error).__name__}: {str(error)[:300]}")
    finally:
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    about = {"torch": torch.__version__, "device": DEVICE}
    if DEVICE == "cuda":
        chip = torch.cuda.get_device_properties(0)
        about |= {"name": chip.name, "multiprocessors": chip.multi_processor_count, "memory": chip.total_memory}
    give(about=about)
    if DEVICE == "cpu" and not TINY:
        give(label="all", error="PyTorch sees no CUDA device")
        return
    powers = [14] if TINY else [18, 24, 28]
    sizes = [1_000] if TINY else [1_000, 10, 100_000, 100]
    for n in sizes:
        for power in powers:
            rows = max(1, 2**power // n)
            measured(f"eager, 2^{power} at once", n, rows, partial(eager, rows, n))
    for n in sizes:
        for power in powers[-2:]:
            rows = max(1, 2**power // n)
            torch.compiler.reset()
            inside = torch.compile(partial(by_hand, rows, n), dynamic=False)
            measured(f"compiled by hand, noise inside, 2^{power} at once", n, rows, inside)
            outside = torch.compile(by_func, dynamic=False)
            call = lambda rows=rows, n=n, f=outside: f(torch.randn(rows, n, device=DEVICE))
            measured(f"compiled torch.func, 2^{power} at once", n, rows, call)


if __name__ == "__main__":
    main()
