"""`check_compiler`: a test of whether JAX compiles sums and products correctly on this machine."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rgrad.backend.compiling import options

FLAG = "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type="
TOLERANCE = 1e-3  # relative to the largest element. Rounding errors are below 1e-4; the known bugs give errors near 1

# Each program runs in NumPy, in 64 bits, and in JAX. Some of the bugs occur only above 2^15 elements, so x has 33,000
# rows.
PROGRAMS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "(x + 1) @ ones": lambda xp, x, w, t: (x + 1) @ xp.ones((5, 3), x.dtype),
    "sum of (x + 1) @ ones": lambda xp, x, w, t: ((x + 1) @ xp.ones((5, 3), x.dtype)).sum(),
    "rows of (x + 1) @ ones": lambda xp, x, w, t: ((x + 1) @ xp.ones((5, 3), x.dtype)).sum(1),
    "mean of squares of x @ ones": lambda xp, x, w, t: ((x @ xp.ones((5, 3), x.dtype)) ** 2).mean(),
    "row means of squares of (x + 1) @ ones": lambda xp, x, w, t: (((x + 1) @ xp.ones((5, 3), x.dtype)) ** 2).mean(-1),
    "x @ broadcast": lambda xp, x, w, t: x @ xp.broadcast_to(t, (5, 3)),
    "mean of squares of (x t) @ w": lambda xp, x, w, t: (((x * t) @ w) ** 2).mean(),
    "sum of a batch of products": lambda xp, x, w, t: ((x.reshape(-1, 4, 5) + 1) @ xp.ones((5, 3), x.dtype)).sum(
        (1, 2)
    ),
    "x' x": lambda xp, x, w, t: (x + t).T @ (x * t),
    "two layers": lambda xp, x, w, t: xp.tanh(xp.tanh(x @ w) @ w.T).sum(1),
    "sum of squares along rows and columns": lambda xp, x, w, t: (x**2).sum(1)[:5] + (x**2).sum(0),
    "sum of weighted sums": lambda xp, x, w, t: xp.einsum("ij,jk,i->k", x + 1, w, x[:, 0]),
}


class CompilerCheck(NamedTuple):
    """The result of `check_compiler`. As a string it is one line.

    Example:
        >>> check = rgrad.CompilerCheck(plain=("row sums",), with_options=(), tried=12, where="cpu")
        >>> check.ok
        False
    """

    plain: tuple[str, ...]
    """The names of the programs that plain `jax.jit` gets wrong."""
    with_options: tuple[str, ...]
    """The names of the programs that `jax.jit` gets wrong with this package's compiler options."""
    tried: int
    where: str
    """The version of jaxlib and the platform."""

    @property
    def ok(self) -> bool:
        """Whether all programs are correct, compiled either way."""
        return not self.plain and not self.with_options

    def __str__(self) -> str:
        if self.ok:
            return f"{self.where}: {self.tried} of {self.tried} programs are right, through jax.jit and through rgrad"
        cure = f"; start Python with {FLAG}" if self.plain and "cpu" in self.where else ""
        names = ", ".join(dict.fromkeys(self.plain + self.with_options))
        return (
            f"{self.where}: WRONG through jax.jit: {len(self.plain)}, through rgrad: {len(self.with_options)} of "
            f"{self.tried} programs ({names}){cure}"
        )


def check_compiler() -> CompilerCheck:
    """A check of JAX's compiler on this machine: twelve programs of sums and products, compared with NumPy in 64 bits.

    Each program is compiled twice: by plain `jax.jit`, and with the options that `measure`, `sweep` and `fit` use. This
    takes a few seconds. jaxlib 0.10.2 to 0.12.0 compile some products wrongly on CPUs with AVX-512
    (https://github.com/jax-ml/jax/issues/39103, 39257, 40412). Even if all twelve are correct, another program may be
    compiled wrongly.

    Returns:
        A `CompilerCheck`. It has `.ok` and the names of the wrong programs. As a string it is a one-line summary.

    Example:
        >>> rgrad.check_compiler().tried
        12
    """
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((33_000, 5)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32)
    arguments = (x, w, np.float32(2))
    wide = [np.asarray(a, float) for a in arguments]
    plain = tuple(name for name, f in PROGRAMS.items() if _wrong(f, arguments, wide, None))
    ours = tuple(name for name, f in PROGRAMS.items() if _wrong(f, arguments, wide, options()))
    where = f"jaxlib {version('jaxlib')} on {jax.default_backend()}"
    return CompilerCheck(plain, ours, len(PROGRAMS), where)


def _wrong(f: Callable[..., Any], arguments: Any, wide: Any, compiler_options: Any) -> bool:
    right = np.asarray(f(np, *wide))
    with jax.default_matmul_precision("highest"):  # the default on an accelerator has fewer bits
        got = jax.jit(lambda *a: f(jnp, *a), compiler_options=compiler_options)(*map(jnp.asarray, arguments))
    return not np.allclose(np.asarray(got, float), right, rtol=0, atol=TOLERANCE * np.abs(right).max())
