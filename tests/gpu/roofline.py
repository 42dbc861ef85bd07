"""Part d7: the integer operations per draw times the draws per second, as a share of the chip's peak."""

import re
from typing import Any

from tests.gpu.context import Context, SkippedPart
from tests.gpu.report import say

LANES = 64  # 32-bit integer operations of one multiprocessor in one cycle, on compute capability 8.0 and 9.0
CLOCK, UNITS = 1.755e9, 132  # of an H100, if the run does not report them


def roofline(ctx: Context) -> None:
    """Compare the rates of part c1 with the peak, by the clock that was seen during the long run of d4."""
    rows = ctx.report.data["parts"].get("c1", {}).get("rows", {})
    if not any("operations per draw" in row for row in rows.values()):
        raise SkippedPart("part c1 has no count of operations; run it too")
    units = int(ctx.of("a1", "notes", "device", {}).get("multiprocessors") or (1 if ctx.tiny else UNITS))
    clock = clock_of(ctx)
    peak = units * LANES * clock
    assumed = f"{units} multiprocessors x {LANES} lanes of 32-bit integers x {clock / 1e6:.0f} MHz"
    ctx.note("peak", {"operations per second": peak, "assumed": assumed})
    say(f"   assumed: {assumed}, one operation in a cycle")
    for row in rows.values():
        if "operations per draw" in row:
            counted = row["operations per draw"]
            best = max(r["rate"] for r in rows.values() if r["form"] == row["form"] and r["n"] == row["n"])
            share = best * counted["integer, a rotation as one"] / peak
            ctx.row(row["form"], **{
                "n": row["n"],
                "integer operations per draw": counted["integer, a rotation as one"],
                "best rate": best,
                "share of the peak": share,
                "share, rotations as three": best * counted["integer"] / peak,
            })  # fmt: skip
            say(
                f"   {row['form']:42s} {counted['integer, a rotation as one']:6.1f} ops/draw, {100 * share:5.1f} % of the peak"
            )


def clock_of(ctx: Context) -> float:
    said: dict[str, Any] = ctx.of("a1", "notes", "nvidia-smi", {})
    seen = ctx.of("d4", "rows", "long run", {}).get("nvidia-smi in the middle", {}).get("clocks.sm")
    for text in (seen, said.get("clocks.max.sm"), said.get("clocks.sm")):
        if text and re.match(r"\d+(\.\d+)? MHz", text):
            return float(text.split()[0]) * 1e6
    return CLOCK
