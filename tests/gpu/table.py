"""The list of the parts, the most important first."""

from typing import NamedTuple


class Part(NamedTuple):
    title: str
    share: float
    """Its share of the time. The time that is left is divided among the remaining parts in proportion."""
    place: str
    """`module:function` in this package. The module is imported when the part starts."""


PARTS = {
    "a1": Part("versions, device, imports and the first result", 15, "machine:machine"),
    "a2": Part("experiments.variance against exact values", 20, "machine:variance"),
    "b1": Part("the post's problem: means 4, variances 87/n and 4/n", 12, "post:check_post"),
    "b2": Part("every estimator against closed forms, sums and quadrature", 65, "estimators:check_estimators"),
    "b3": Part(
        "equal draws under jit, vmap, scan and shard_map; Hessians", 25, "transformations:check_transformations"
    ),
    "b4": Part("the GPU and the CPU with the same keys", 15, "beside_cpu:check_beside_cpu"),
    "b5": Part("64 bits, and exact moments", 20, "wide:check_wide"),
    "b6": Part("sweep, fit and compare", 35, "larger:check_larger"),
    "b7": Part("matrix products and other programs against NumPy in 64 bits", 25, "products:check_products"),
    "b8": Part("jax_debug_nans off and on", 15, "nans:check_nans"),
    "b9": Part("programs, NumPyro's SVI, the noise of a whole gradient, audits", 25, "newer:check_newer"),
    "c1": Part("noise: draws per second by method, numbers in flight and n", 60, "noise_rates:measure_noise"),
    "d1": Part("rgrad.measure of both gradients, by n and batch", 35, "measuring:measure_rates"),
    "d2": Part("stock JAX: jit(vmap(grad)), and streamed by lax.scan", 25, "stock:stock_rates"),
    "d3": Part("PyTorch, eager and compiled", 35, "pytorch:torch_rates"),
    "d4": Part("growth of memory, and one long run", 25, "long_run:long_run"),
    "d5": Part("a thousand fits of 2,000 steps", 25, "fits:fit_rates"),
    "d6": Part("sweeps of 1,000 and 10,000 cells", 25, "sweeps:sweep_rates"),
    "d7": Part("share of the peak rate of 32-bit integers", 3, "roofline:roofline"),
    "d8": Part("loops as CUDA graphs, by a compiler option", 15, "graphs:graph_rates"),
    "e1": Part("Bayesian logistic regression on the GPU and on the CPU", 30, "models:logistic"),
    "e2": Part("a variational autoencoder on the GPU and on the CPU", 30, "models:autoencoder"),
}
STUBS = {f"stub{i}": Part("a stub, which only tests the processes", 1, "stub:stub") for i in (1, 2, 3)}


def chosen(text: str) -> list[str]:
    """The parts that `--parts` selects, in its order. A letter selects all parts that start with it.

    Raises:
        ValueError: a name is unknown.
    """
    names: list[str] = []
    for word in text.split(","):
        found = [word] if word in PARTS | STUBS else [name for name in PARTS if word and name.startswith(word)]
        if not found:
            raise ValueError(f"--parts {text}: unknown part {word!r}; choose from {', '.join(PARTS)}")
        names += [name for name in found if name not in names]
    return names
