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


class Run:
    """An estimator's compiled program, and its measurements so far."""

    def __init__(self, name: str, program: Program, key: Array):
        self.name, self.program, self.key = name, program, jax.random.fold_in(key, zlib.crc32(name.encode()))
        self.calls, self.used = 0, 0.0
        self.seconds: list[float] = []
        """The time of one call in each batch."""
        self.moments: Moments
        """Of every coordinate. (Set by the first batch, like what follows.)"""
        self.finite: bool
        self._distance: Moments  # the squared distance of a call from the mean of the first batch, for `total_error`
        self._entry: Entry | None = None

    def batch(self, cost: str) -> float:
        """Makes `lanes` more calls and returns their cost."""
        began = time.perf_counter()
        keys = keys_for(self.key, np.uint32(self.calls >> 32), np.uint32(self.calls & 0xFFFFFFFF), self.program.lanes)
        keys.block_until_ready()
        ready = time.perf_counter()
        x = np.asarray(self.program.run(self.program.parameters, keys))
        self.seconds.append((time.perf_counter() - ready) / self.program.lanes)
        self._add(x)
        self.calls += self.program.lanes
        used = time.perf_counter() - began if cost == "time" else self.program.lanes * self.program.operations
        self.used += used
        return used

    def _add(self, x: np.ndarray[Any, Any]) -> None:
        calls, size = x.shape
        if first := self.calls == 0:
            self._first, self._tails = np.zeros(size), Tails(size)
        squares, parts = np.zeros(calls), []
        for at in blocks(size, calls):
            part = np.asarray(x[:, at], np.float64)
            if first:
                self._first[at] = part.mean(0)
            squares += ((part - self._first[at]) ** 2).sum(1)
            moments = _moments_of(part)
            parts.append(moments if first else columns_of(self.moments, at).merge(moments))
        distance = _moments_of(squares[:, None])
        self.moments = Moments(parts[0].count, *map(np.concatenate, zip(*(part[1:6] for part in parts), strict=True)))
        self._distance = distance if first else self._distance.merge(distance)
        self._tails.add(x, squares)
        self.finite = bool(np.all(np.isfinite(self.moments.mean)))
        self._entry = None

    def entry(self, cost: str) -> Entry:
        """The measurements so far."""
        if self._entry is None:
            self._entry = self._entry_of(cost)
        return self._entry

    def _entry_of(self, cost: str) -> Entry:
        moments, program = self.moments, self.program
        total = float(moments.variance.sum())
        seconds = np.sort(self.seconds)
        middle = float(np.median(seconds))
        quartiles = np.quantile(seconds, [0.25, 0.75])
        noise = float(quartiles[1] - quartiles[0]) / 1.35 * 1.25 / len(seconds) ** 0.5 / middle
        by_time = cost == "time"
        heavy = np.zeros(moments.mean.size, bool)
        if not program.constant:
            # The tail of rounding errors says nothing.
            heavy = self._tails.heavy(self.calls) & (moments.variance > rounding(moments, total))
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
