"""`Rows`: the rows of a comparison, made on demand."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from rgrad.comparison.entry import Entry, columns_of
from rgrad.comparison.judged import BIASED, UNKNOWN, Judged
from rgrad.comparison.verdicts import FREE

Row = dict[str, Any]
WIDTH = 2**12  # the coordinates whose numbers are computed together
KEPT = 64  # the number of such blocks that are kept


class Rows(Sequence[Row]):
    """One row for each estimator and coordinate: all coordinates of the first estimator, then those of the second."""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        able: Sequence[str],
        judged: Mapping[str, Judged],
        labels: Sequence[str],
        chosen: str | None,
    ):
        self._entries, self._able, self._judged = entries, tuple(able), judged
        self._labels, self._chosen = labels, chosen
        self._kept: dict[tuple[str, int], dict[str, np.ndarray[Any, Any]]] = {}

    def __len__(self) -> int:
        return len(self._entries) * len(self._labels)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        which, i = divmod(range(len(self))[at], len(self._labels))
        return self._row(list(self._entries)[which], i)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(dict.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self)) if len(self) <= KEPT else f"<{len(self):,} rows, the first of which is {self[0]}>"

    def _row(self, name: str, i: int) -> Row:
        entry, judged = self._entries[name], self._judged[name]
        block, place = divmod(i, WIDTH)
        columns = self._columns(name, block)
        at = lambda column: float(columns[column][place])
        variance = at("variance")
        zero = variance == 0
        warning = (
            "nan or infinite in some calls" if not entry.finite
            else "infinite variance (suspected)" if entry.heavy[i]
            else "heavy tails: the interval covers less than 95 %" if not zero and not at("freedom") >= FREE
            else ""
        )  # fmt: skip
        biased = {BIASED: True, UNKNOWN: None}.get(int(judged.codes[i]), False)
        return {
            "estimator": name,
            "parameter": self._labels[i],
            "mean": at("mean"),
            "standard_error": 0.0 if entry.constant else at("error"),
            "variance": variance,
            "variance_low": 0.0 if zero else at("low"),
            "variance_high": 0.0 if zero else at("high"),
            "seconds": entry.seconds,
            "operations": entry.operations,
            "efficiency": np.inf if zero else float(columns["best"][place] / (variance * entry.cost)),
            "biased": biased,
            "recommended": name == self._chosen,
            "snr": np.inf if zero else abs(at("mean")) / variance**0.5,
            "smallest_bias": float(judged.smallest_bias[i]),
            "kurtosis": at("kurtosis"),
            "calls": int(entry.moments.count),
            "verdict": judged.verdict(i),
            "why": judged.why(i),
            "warning": warning,
        }

    def _columns(self, name: str, block: int) -> dict[str, np.ndarray[Any, Any]]:
        """The numbers of one block of coordinates."""
        if (name, block) not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            at, entry = slice(block * WIDTH, (block + 1) * WIDTH), self._entries[name]
            moments = columns_of(entry.moments, at)
            low, high = moments.variance_interval()
            self._kept[name, block] = {
                "mean": moments.mean,
                "error": moments.standard_error,
                "variance": moments.variance if entry.total != 0 else np.zeros_like(moments.mean),
                "low": low,
                "high": high,
                "freedom": moments.variance_freedom,
                "kurtosis": moments.kurtosis,
                "best": self._best_products(at),
            }
        return self._kept[name, block]

    def _best_products(self, at: slice) -> np.ndarray[Any, Any]:
        """The least variance x cost in each coordinate, of the estimators in `able` that vary there. nan if none does."""
        able = [self._entries[name] for name in self._able if self._entries[name].total > 0]
        products = [columns_of(entry.moments, at).variance * entry.cost for entry in able]
        least = np.full(len(range(len(self._labels))[at]), np.inf)
        for product in products:
            least = np.minimum(least, np.where(product > 0, product, np.inf))
        return np.where(np.isfinite(least), least, np.nan)
