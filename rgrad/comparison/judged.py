"""`Judged`: verdicts and their reasons as numbers, one for each coordinate. The words are made on demand."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

UNBIASED, UNKNOWN, BIASED = range(3)
WORDS = ("unbiased so far", "cannot tell", "BIASED")
NAN, HEAVY, FEW, VISIBLE, JUMPS = range(1, 6)
REASONS = (
    "",
    "nan or infinite gradients",
    "infinite variance (suspected)",
    "only {:.0f} draws determine the mean",
    "a bias below {:.2g} would not be detected",
    "the objective jumps in {label}",
)


class Judged(NamedTuple):
    """The verdict for each coordinate; see `rgrad.comparison.verdicts.judge`. All arrays have shape `(coordinates,)`."""

    codes: np.ndarray[Any, Any]
    """UNBIASED, UNKNOWN or BIASED."""
    smallest_bias: np.ndarray[Any, Any]
    reasons: np.ndarray[Any, Any]
    """Why there is no verdict: an index into `REASONS` or, from `len(REASONS)` on, into `further`. 0 for no reason."""
    numbers: np.ndarray[Any, Any]
    """The number in the sentence of the reason."""
    further: tuple[str, ...] = ()
    """Sentences of this comparison, e.g. with the names of its references."""
    labels: Sequence[str] = ()
    """The labels of the coordinates, for the sentence of `JUMPS`."""
    by: tuple[str, ...] = ()
    """The references that the means were compared with."""
    disputed: bool = False
    """Whether another estimator has a significantly different mean somewhere, and it is not known which is correct."""

    def verdict(self, i: int) -> str:
        """The verdict for the coordinate i: one of `WORDS`."""
        return WORDS[self.codes[i]]

    def why(self, i: int) -> str:
        """The reason for the verdict for the coordinate i, "" if it needs none."""
        reason = int(self.reasons[i])
        if reason >= len(REASONS):
            return self.further[reason - len(REASONS)]
        return REASONS[reason].format(self.numbers[i], label=self.labels[i] if reason == JUMPS else "")

    def first(self, marks: np.ndarray[Any, Any]) -> str:
        """The reason in the first coordinate that is marked. "" if none is."""
        return self.why(int(marks.argmax())) if marks.any() else ""

    @property
    def biased(self) -> bool | None:
        """Whether the estimator is biased in some coordinate. None if it is not, but has no verdict in some."""
        return True if (self.codes == BIASED).any() else None if (self.codes == UNKNOWN).any() else False

    def untold(self, marks: np.ndarray[Any, Any], why: str) -> "Judged":
        """The same, but without a verdict in the marked coordinates, for the reason `why`."""
        if not marks.any():
            return self
        reason = len(REASONS) + len(self.further)
        codes, reasons = np.where(marks, UNKNOWN, self.codes), np.where(marks, reason, self.reasons)
        return self._replace(codes=codes, reasons=reasons, further=(*self.further, why))

    def updated(self, marks: np.ndarray[Any, Any], other: "Judged") -> "Judged":
        """The same, but with the verdicts of `other` in the marked coordinates."""
        moved = np.where(other.reasons < len(REASONS), other.reasons, other.reasons + len(self.further))
        return self._replace(
            codes=np.where(marks, other.codes, self.codes),
            smallest_bias=np.where(marks, other.smallest_bias, self.smallest_bias),
            reasons=np.where(marks, moved, self.reasons),
            numbers=np.where(marks, other.numbers, self.numbers),
            further=(*self.further, *other.further),
        )


def no_verdict(size: int, why: str) -> Judged:
    """The verdict "cannot tell" in every coordinate, for the reason `why`."""
    nan = np.full(size, np.nan)
    return Judged(np.full(size, UNKNOWN, np.int8), nan, np.full(size, len(REASONS), np.int16), nan, (why,))
