"""`Run`: an estimator's program and its measurements so far, in memory that does not grow with the number of calls."""

import time
import zlib
from typing import Any

import jax
import numpy as np
from jax import Array

from rgrad.comparison.blocks import blocks
from rgrad.comparison.costs import Program, keys_for
from rgrad.comparison.entry import Entry, columns_of, rounding
from rgrad.comparison.tails import Tails
from rgrad.comparison.verdicts import Mean
from rgrad.measurement.moments import Moments

GATHERED = (
    16  # the fewest calls that are added to the moments together, because adding one takes as long as adding many
)


class Run:
    """An estimator's compiled program, and its measurements so far."""

    def __init__(self, name: str, program: Program, key: Array):
        self.name, self.program, self.key = name, program, jax.random.fold_in(key, zlib.crc32(name.encode()))
        self.calls, self.used, self.finite = 0, 0.0, True
        self.seconds: list[float] = []
        """The time of one call in each batch."""
        self._waiting: list[np.ndarray[Any, Any]] = []
        self._moments: Moments | None = None
        self._distance: Moments  # the squared distance of a call from the mean of the first ones, for `total_error`
        self._entry: Entry | None = None

    def batch(self, cost: str) -> float:
        """Makes `lanes` more calls and returns their cost."""
        began = time.perf_counter()
        keys = keys_for(self.key, np.uint32(self.calls >> 32), np.uint32(self.calls & 0xFFFFFFFF), self.program.lanes)
        keys.block_until_ready()
        ready = time.perf_counter()
        x = np.asarray(self.program.run(self.program.parameters, keys))
        self.seconds.append((time.perf_counter() - ready) / self.program.lanes)
        self.finite = self.finite and bool(np.isfinite(x).all())
        self._waiting.append(x)
        self._entry = None
        if sum(map(len, self._waiting)) >= GATHERED:
            self._add_waiting()
        self.calls += self.program.lanes
        used = time.perf_counter() - began if cost == "time" else self.program.lanes * self.program.operations
        self.used += used
        return used

    def _add_waiting(self) -> None:
        """Adds the calls that are not in the moments yet."""
        if not self._waiting:
            return
        x = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._waiting, old = [], self._moments
        calls, size = x.shape
        if old is None:
            self._first, self._tails = np.zeros(size), Tails(size)
        squares, parts = np.zeros(calls), []
        for at in blocks(size, max(calls, GATHERED)):
            part = np.asarray(x[:, at], np.float64)
            if old is None:
                self._first[at] = part.mean(0)
            squares += ((part - self._first[at]) ** 2).sum(1)
            parts.append(_moments_of(part) if old is None else columns_of(old, at).merge(_moments_of(part)))
        distance = _moments_of(squares[:, None])
        self._moments = Moments(parts[0].count, *map(np.concatenate, zip(*(part[1:6] for part in parts), strict=True)))
        self._distance = distance if old is None else self._distance.merge(distance)
        self._tails.add(x, squares)

    def entry(self, cost: str, *, fresh: bool = True) -> Entry:
        """The measurements so far. `fresh` is that of `Tails.heavy`."""
        if self._entry is None or fresh:
            self._add_waiting()
            assert self._moments is not None
            self._entry = self._entry_of(self._moments, cost, fresh)
        return self._entry

    def _entry_of(self, moments: Moments, cost: str, fresh: bool) -> Entry:
        program = self.program
        total = float(moments.variance.sum())
        seconds = np.sort(self.seconds)
        middle = float(np.median(seconds))
        quartiles = np.quantile(seconds, [0.25, 0.75])
        noise = float(quartiles[1] - quartiles[0]) / 1.35 * 1.25 / len(seconds) ** 0.5 / middle
        by_time = cost == "time"
        heavy = np.zeros(moments.mean.size, bool)
        if not program.constant:
            # The tail of rounding errors carries no information.
            heavy = self._tails.heavy(self.calls, fresh=fresh) & (moments.variance > rounding(moments, total))
        return Entry(
            moments,
            Mean.of(moments, program.constant),
            total,
            float(self._distance.standard_error[0]),
            middle,
            program.operations,
            middle if by_time else max(program.operations, 1.0),
            noise if by_time else 0.0,
            heavy,
            program.constant,
        )


def _moments_of(x: np.ndarray[Any, Any]) -> Moments:
    """The moments of independent calls, given with shape `(calls, numbers)`, in 64 bits."""
    finite = np.isfinite(x)
    x = np.where(finite.all(0), x, np.nan)
    mean = x.mean(0)
    square = (x - mean) ** 2
    m3, m4 = (square * (x - mean)).mean(0), (square**2).mean(0)
    return Moments(np.asarray(len(x)), mean, square.mean(0), m3, m4, (~finite).sum(0))
