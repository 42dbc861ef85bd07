"""A `Comparison` as text."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rgrad.comparison.verdicts import EFFECTIVE, POWER, RATE

SHOWN = 8  # the most coordinates in the table; if there are more, only the total is shown


def as_text(c: Any) -> str:
    """The table, the basis of its verdicts, and the recommendation."""
    size = len(c.rows) // len(c.totals)
    shown = size if size <= SHOWN else 0
    header = [
        "estimator",
        "d/d",
        "mean",
        "variance",
        "95 % interval",
        "snr",
        "time",
        "operations",
        "efficiency",
        "biased?",
    ]
    lines = []
    for i, total in enumerate(c.totals):
        for row in c.rows[i * size : i * size + shown]:
            mean = f"{row['mean']:.4g} +- {row['standard_error']:.1g}"
            exact = row["variance"] == 0
            interval = "" if exact else f"[{row['variance_low']:.3g}, {row['variance_high']:.3g}]"
            verdict = f"no (bias < {row['smallest_bias']:.1g})" if row["biased"] is False else (
                "YES" if row["biased"] else f"cannot tell: {row['why']}"
            )  # fmt: skip
            if row["warning"] and row["warning"] not in verdict:
                verdict += f"; {row['warning']}"
            alone = size == 1
            lines.append([
                total["estimator"], row["parameter"], mean, "exact" if exact else f"{row['variance']:.4g}", interval,
                "" if exact else f"{row['snr']:.2g}", _time(row["seconds"]) if alone else "",
                f"{row['operations']:,.0f}" if alone else "", _efficiency(row), verdict,
            ])  # fmt: skip
        if size > 1:
            exact = total["variance"] == 0
            no = f"no (bias < {total['smallest_bias']:.1g} in each)"
            verdict = {True: "YES", False: no, None: f"cannot tell: {total['remark']}"}[total["biased"]]
            lines.append([
                total["estimator"], "all", "", "exact" if exact else f"{total['variance']:.4g}", "", "",
                _time(total["seconds"]), f"{total['operations']:,.0f}", _efficiency(total), verdict,
            ])  # fmt: skip
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    align = lambda line: "  ".join(
        cell.ljust(w) if i in (0, 1, len(header) - 1) else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    ).rstrip()  # fmt: skip
    unit = f"{c.spent:.1f} s" if c.cost == "time" else f"{c.spent:.2g} operations"
    under = [
        *([f"The {size:,} coordinates are not shown one by one: see `rows`."] if not shown else []),
        f"One call is one gradient estimate{f' from {c.n} samples' if c.n is not None else ''}. Measured for {unit}, compiled in {c.compile_seconds:.1f} s. "
        f"efficiency = 1 / (variance x {c.cost}), relative to the best estimator that is not biased.",
        f"Reference for the bias: {c.reference}. An unbiased estimator is called biased in at most {RATE:.0%} of comparisons. A "
        f"bias of the size in brackets is detected {POWER:.0%} of the time. There is no verdict if fewer than {EFFECTIVE} draws "
        "determine a mean.",
        *(f"note: {note}" for note in c.notes),
        *(f"left out: {name}: {_without(name, why.split('; use')[0])}" for name, why in c.left_out.items()),
    ]
    wrapped = [part for line in under for part in textwrap.wrap(line, 120, subsequent_indent="  ")]
    return "\n".join([align(header), *map(align, lines), "", *wrapped, "", *textwrap.wrap(c.recommendation, 120)])


def _efficiency(row: Mapping[str, Any]) -> str:
    return "exact" if row["variance"] == 0 else f"{row['efficiency']:.3g}"


def _time(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{seconds * scale:.3g} {unit}"


def _without(name: str, why: str) -> str:
    """A reason without the estimator's own name in front."""
    return why.removeprefix(name).removeprefix(":").strip()
