"""`Audit`: the verdict of an audit, as rows, as a table, and as one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rgrad.audits.cuts import Cut
from rgrad.audits.judgement import COARSE, KINK, SURROGATE, UNDEFINED, VISIBLE, Findings
from rgrad.comparison.judged import BIASED, FEW, HEAVY, UNBIASED
from rgrad.printing import SHOWN, Printed, as_table, more

OK, WRONG, UNTOLD = "ok", "BIASED", "cannot tell"
WORDS = {UNBIASED: OK, BIASED: WRONG}
LISTED = 4  # cuts in the printed text


class _AuditFields(NamedTuple):
    verdict: str
    """"ok", "BIASED", "cannot tell", "compiled wrongly" or "side effects"."""
    sentence: str
    """The verdict in words, and what to do."""
    rows: list[dict[str, Any]]
    """One row for each coordinate or direction: `name`, `verdict`, `gradient` (the mean slope of the loss), `truth` (the
    difference of the mean value), `gradient_error` and `truth_error` (standard errors), `bias`, `low` and `high` (its
    interval, at the level of the verdict), `relative` (the bias relative to the larger of gradient and truth, see
    `audit`), `largest_bias` (the largest one that is not excluded), `largest_relative`, `step`, `keys` ("common" or
    "independent"), `calls`, `why` (there is no verdict) and `seconds_needed`.
    """
    cuts: list[Cut]
    """Where the path from the parameters to the value is cut. Empty if every row is ok."""
    spent: float
    """Seconds of measurement."""
    compile_seconds: float
    """Seconds of all else: tracing, compiling, and evaluating without compilation."""


class Audit(Printed, _AuditFields):
    """What `rgrad.audit` returns. `print` shows the table, the sentence, and the cuts.

    Example:
        >>> loss = lambda theta, key: (theta + jax.random.normal(key)) ** 2
        >>> found = rgrad.audit(loss, 2.0, key)
        >>> found.ok, found.rows[0]["verdict"]
        (True, 'ok')
    """

    __slots__ = ()

    @staticmethod
    def without_rows(found: Any, compile_seconds: float) -> Audit:
        """The audit of a loss of which two evaluations differ."""
        return Audit(found.verdict, found.sentence, [], [], 0.0, compile_seconds)

    @property
    def ok(self) -> bool:
        """Whether every row is ok."""
        return self.verdict == OK

    def __str__(self) -> str:
        parts = []
        if self.rows:
            order = sorted(self.rows, key=lambda row: (WRONG, UNTOLD, OK).index(row["verdict"]))
            header = ("", "verdict", "gradient", "truth", "bias", "largest bias", "why")
            number = lambda row, key, error: f"{row[key]:.4g} +- {row[error]:.1g}"
            lines = [
                (row["name"], row["verdict"], number(row, "gradient", "gradient_error"),
                 number(row, "truth", "truth_error"), f"{row['relative']:+.1%}",
                 f"{row['largest_relative']:.1%}", row["why"])
                for row in order[:SHOWN]
            ]  # fmt: skip
            parts += [as_table(header, lines, left=2), *more(len(order)), ""]
        parts += [f"{self.verdict}: {self.sentence}"]
        return "\n".join([*parts, *(f"  {cut}" for cut in self.cuts[:LISTED])])


def conclude(
    names: Sequence[str], scales: Any, steps: Any, apart: Any, found: Findings, cuts: list[Cut], spent: float,
    compile_seconds: float, *, deterministic: bool, own: bool, tolerance: float,
) -> Audit:  # fmt: skip
    """The audit that follows from the findings. `scales` is the length of each direction."""
    rows = [_row(i, names[i], scales[i], steps[i], apart[i], found, spent, tolerance) for i in range(len(names))]
    words = [row["verdict"] for row in rows]
    verdict = WRONG if WRONG in words else UNTOLD if UNTOLD in words else OK
    sentence = _sentence(verdict, rows, found, cuts, deterministic, own)
    return Audit(verdict, sentence, rows, cuts, spent, compile_seconds)


def _row(i: int, name: str, scale: float, step: float, apart: bool, f: Findings, spent: float, tolerance: float) -> dict[str, Any]:  # fmt: skip
    per, size = 1 / scale, max(float(f.size[i]), np.finfo(float).tiny)
    needed = float(f.needed[i]) * spent / max(f.calls, 1)
    return {
        "name": name,
        "verdict": WORDS.get(int(f.codes[i]), UNTOLD),
        "gradient": float(f.slope[i] * per),
        "gradient_error": float(f.slope_error[i] * per),
        "truth": float(f.reference[i] * per),
        "truth_error": float(f.reference_error[i] * per),
        "bias": float(f.bias[i] * per),
        "low": float((f.bias[i] - f.width[i]) * per),
        "high": float((f.bias[i] + f.width[i]) * per),
        "relative": float(f.bias[i] * (np.sign(f.reference[i]) or 1.0) / size),
        "largest_bias": float(f.largest[i] * per),
        "largest_relative": float(f.largest[i] / size),
        "step": float(step * scale),
        "keys": "independent" if apart else "common",
        "calls": f.calls,
        "why": _why(i, f, needed, tolerance),
        "seconds_needed": needed,
    }


def _why(i: int, f: Findings, needed: float, tolerance: float) -> str:
    """Why there is no verdict. Empty if there is one."""
    if f.codes[i] in WORDS:
        return ""
    longer = f"; it takes about {_seconds(needed)} of budget" if np.isfinite(needed) else ""
    return {
        UNDEFINED: "the value is nan or infinite near the point",
        KINK: "the mean value has a kink at this point, so it has no derivative",
        SURROGATE: "the value does not change with the parameters",
        HEAVY: "the variance is suspected to be infinite",
        FEW: f"only {f.effective[i]:.0f} calls determine the bias{longer}",
        COARSE: "the differences are too coarse; use 64-bit floats",
        VISIBLE: f"a bias of {tolerance:.0%} is not visible{longer}",
    }[int(f.reasons[i])]


def _seconds(x: float) -> str:
    x = float(f"{x:.1g}")
    return f"{x:g} s" if x < 600 else f"{x / 60:.0f} min" if x < 6e4 else f"{x / 3600:.0f} h"


def _sentence(
    verdict: str, rows: list[dict[str, Any]], f: Findings, cuts: list[Cut], deterministic: bool, own: bool
) -> str:
    keyless = (
        " The loss does not depend on its key, so this compares its derivative with its differences." * deterministic
    )
    if (f.reasons == SURROGATE).any():
        return (
            "The value of the loss does not change with the parameters, but its gradient is not 0. It seems to be a "
            "surrogate, whose value means nothing. Pass the objective itself: audit(..., value=objective)." + keyless
        )
    if verdict == OK:
        largest = max(row["largest_relative"] for row in rows)
        shown = f"at most {100 * largest:.1g} % of it" if largest > 0 else "0"
        return f"The gradient is that of the mean value: the bias is {shown}." + keyless
    surrogate = " If the value of the loss is a surrogate, pass the objective: audit(..., value=objective)." * (
        own and not any(cut.operation != "stop_gradient" for cut in cuts)
    )
    if verdict == WRONG:
        worst = max((row for row in rows if row["verdict"] == WRONG), key=lambda row: abs(row["relative"]))
        where = " The cause is here:" if cuts else (
            " No cut explains it, so look for a missing term, a wrong factor or sign, or a baseline that uses its own "
            "value."
        )  # fmt: skip
        return (
            f"The gradient in {worst['name']} is {worst['gradient']:.3g}, but the derivative of the mean value is "
            f"{worst['truth']:.3g}.{keyless}{surrogate}{where}"
        )
    untold = [row for row in rows if row["verdict"] == UNTOLD]
    return f"{untold[0]['name']}: {untold[0]['why']}.{keyless}"
