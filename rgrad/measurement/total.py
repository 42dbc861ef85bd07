"""The noise of a gradient as a whole: total variance, squared norm of the mean, and their ratio, without moments of each element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.backend.noise import fold_in
from rgrad.backend.programs import reference
from rgrad.measurement.arithmetic import student_t, where
from rgrad.measurement.moments import Moments, measure
from rgrad.parameters import WHOLE
from rgrad.printing import SHOWN, Printed, as_table, is_traced, more

Tree = Any
ALL = ""  # the name of all arrays together


class Bounded(NamedTuple):
    """A number with its confidence interval."""

    value: Any
    low: Any
    high: Any


class Noise(NamedTuple):
    """The noise of one array of a call, or of all of them together.

    Example:
        >>> noise = rgrad.measure_total(lambda key: {"w": 1.0 + jax.random.normal(key, (100,))}, key, 1000)
        >>> w = noise.leaves["w"]
        >>> print(w.size, f"{w.noise_scale.value:.1f}")  # the variance over the squared norm of the mean
        100 1.0
    """

    size: int
    """The number of elements."""
    variance: Bounded
    """The total variance per call, `E |g - E g|^2`: the sum of the variances of all elements."""
    squared_mean: Bounded
    """`|E g|^2`. The estimate is unbiased, so it may be negative."""
    signal_to_noise: Bounded
    """`|E g|^2 / E |g - E g|^2`."""
    noise_scale: Bounded
    """`E |g - E g|^2 / |E g|^2`: the number of calls to average for a signal-to-noise ratio of 1. `high` is infinite if
    the mean cannot be told from 0.
    """


@partial(jax.tree_util.register_dataclass, data_fields=["pairs"], meta_fields=["sizes", "level"])
@dataclass(frozen=True, repr=False)
class TotalNoise(Printed):
    """What `measure_total` returns: a pytree. `print` shows it as a table, and `merge` combines it with another.

    Example:
        >>> noise = rgrad.measure_total(lambda key: {"w": 1.0 + jax.random.normal(key, (100,))}, key, 1000)
        >>> print(list(noise.leaves), noise.replicates)
        ['w'] 1000
    """

    pairs: Moments
    """The moments of `<g, g'>`, `|g - g'|^2 / 2` and their sum over pairs of calls, by the path of the array."""
    sizes: tuple[tuple[str, int], ...]
    """The path of each array, e.g. `encoder.kernel`, and the number of its elements."""
    level: float

    @property
    def replicates(self) -> Any:
        """The number of calls."""
        return 2 * self.pairs.count

    @property
    def whole(self) -> Noise:
        """Of all arrays together."""
        return self._noise(ALL, sum(size for _, size in self.sizes))

    @property
    def leaves(self) -> dict[str, Noise]:
        """Of each array, by its path."""
        return {name: self._noise(name, size) for name, size in self.sizes}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each array and one for the whole: name, size, and each number with its interval."""
        return [
            {"name": name, "size": noise.size}
            | {
                key: number
                for field in Noise._fields[1:]
                for key, number in zip((field, f"{field}_low", f"{field}_high"), getattr(noise, field), strict=True)
            }
            for name, noise in {**self.leaves, "whole": self.whole}.items()
        ]

    def merge(self, other: TotalNoise) -> TotalNoise:
        """The noise from both sets of calls."""
        return replace(self, pairs=self.pairs.merge(other.pairs))

    def _noise(self, name: str, size: int) -> Noise:
        trees = self.pairs._asdict().items()
        own = self.pairs._replace(**{field: tree[name] for field, tree in trees if isinstance(tree, dict)})
        low, high = own.interval(self.level)
        n, (u, v, _), (uu, vv, ww) = own.count, own.mean, own.variance
        t = student_t(self.level, n - 1)
        ratio = _fieller(u, v, uu / n, vv / n, (ww - uu - vv) / (2 * n), t)
        inverse = lambda x: where(x > 0, 1 / where(x > 0, x, 1.0), np.inf)
        scale = Bounded(inverse(ratio.value), where(ratio.high > 0, inverse(ratio.high), 0.0), inverse(ratio.low))
        return Noise(size, Bounded(v, low[1], high[1]), Bounded(u, low[0], high[0]), ratio, scale)

    def __str__(self) -> str:
        if is_traced(self.pairs) or np.ndim(self.pairs.count):
            return f"TotalNoise of several settings, of {len(self.sizes)} arrays"
        shown = lambda b: f"{b.value:.3g} [{b.low:.3g}, {b.high:.3g}]"
        leaves = list(self.leaves.items())
        lines = [
            (name, f"{noise.size:,}", *map(shown, noise[1:]))
            for name, noise in [*leaves[:SHOWN], ("whole", self.whole)]
        ]
        header = ("", "size", "variance", "squared mean", "signal to noise", "noise scale")
        under = f"per call, from {self.replicates:,} calls, with {self.level:.0%} intervals"
        return "\n".join([as_table(header, lines), *more(len(leaves)), under])


def _fieller(u: Any, v: Any, uu: Any, vv: Any, uv: Any, t: Any) -> Bounded:
    """u / v with its interval, from the variances of u and v, their covariance, and a quantile.

    The interval holds every R for which u - R v is not significant. It is all numbers if v is not significant.
    """
    a, b, c = v**2 - t**2 * vv, u * v - t**2 * uv, u**2 - t**2 * uu
    root = where(b**2 > a * c, b**2 - a * c, 0.0) ** 0.5
    known = where(a > 0, a, 1.0)
    end = lambda sign: where(a > 0, (b + sign * root) / known, sign * np.inf)
    noiseless = (v == 0) & (u > 0)
    value = where(noiseless, np.inf, u / where(v > 0, v, np.nan))
    return Bounded(value, where(noiseless, np.inf, end(-1)), end(1))


def measure_total(
    draw: Callable[[Array], Tree], key: Array, replicates: int, *, start: int = 0, level: float = 0.95
) -> TotalNoise:
    """The noise of `draw(key)`, e.g. of the gradient of a network, as a whole and for each of its arrays.

    The calls are made in pairs g, g' of independent ones. `|g - g'|^2 / 2` is an unbiased estimate of the total variance
    and `<g, g'>` of the squared norm of the mean. So no array of moments is kept: the memory is that of one call and a
    few arrays of its output, and the time that of the calls. For the moments of every element, use `rgrad.measure`.

    Args:
        draw: maps one key to a pytree of arrays.
        key: one PRNG key.
        replicates: the number of calls, an even Python int of at least 4.
        start: the number of the first call, an even Python int. `measure_total(..., a).merge(measure_total(..., b,
            start=a))` is `measure_total(..., a + b)`.
        level: of the intervals. Those of the variance and the squared mean are Student's t over the pairs, those of the
            two ratios are Fieller's.

    Returns:
        `TotalNoise`, per call: `.whole`, `.leaves`, `.rows`. If a call averages n samples, its variance is 1/n of that of
        one sample.

    Raises:
        ValueError: `replicates` is odd or less than 4, two arrays have the same path, or what `rgrad.measure` raises.
        TypeError: what `rgrad.measure` raises.

    Example:
        >>> noise = rgrad.measure_total(lambda key: {"w": 1.0 + jax.random.normal(key, (100,))}, key, 1000)
        >>> print(f"{noise.whole.variance.value:.0f} {noise.whole.squared_mean.value:.0f}")  # the truth: 100 and 100
        100 100

    Source: McCandlish, Kaplan, Amodei et al. 2018, An empirical model of large-batch training (the noise scale, section
    2.2), https://arxiv.org/abs/1812.06162; Fieller 1954, Some problems in interval estimation.
    """
    for name, value, least in (("replicates", replicates, 4), ("start", start, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"measure_total: {name} must be a Python int, got {value!r}")
        if value < least or value % 2:
            raise ValueError(
                f"measure_total: {name} must be even and at least {least}, because calls are compared in pairs; got {value}"
            )
    pair = _pair_of(draw)
    pairs = measure(pair, key, int(replicates) // 2, start=int(start) // 2)
    return TotalNoise(pairs, tuple(pair.sizes.items()), level)


class _Pair:
    """Two calls of `draw`, and what is measured of them."""

    def __init__(self, draw: Any):
        self.draw = reference(draw)
        self.sizes: dict[str, int] = {}
        """The number of elements of each array, known when the pair has been traced."""

    def __call__(self, key: Array) -> dict[str, tuple[Array, Array, Array]]:
        first, second = (self.draw()(fold_in(key, i)) for i in range(2))
        found = {}
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or WHOLE
            if name in found:
                raise ValueError(
                    f"measure_total: two arrays are called {name!r}, the path of their keys; rename one key"
                )
            a, b = (jnp.asarray(x, jnp.result_type(x, jnp.float32)) for x in (a, b))
            self.sizes[name] = a.size
            found[name] = jnp.sum(a * b), jnp.sum((a - b) ** 2) / 2
        if not found:
            raise TypeError("measure_total: draw returned nothing to measure; return an array or a pytree of arrays")
        total = [sum(column) for column in zip(*found.values(), strict=True)]
        # The covariance of the two follows from the variance of their sum.
        return {name: (u, v, u + v) for name, (u, v) in [*found.items(), (ALL, total)]}


_PAIRS: WeakKeyDictionary[Any, _Pair] = WeakKeyDictionary()
"""One for each `draw`, so that its program is compiled once. It is kept as long as `draw`."""


def _pair_of(draw: Any) -> _Pair:
    try:
        return _PAIRS.setdefault(draw, _Pair(draw))
    except TypeError:  # it cannot be a key
        return _Pair(draw)
