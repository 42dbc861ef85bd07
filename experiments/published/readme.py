"""The table of this experiment's README."""

import math
from typing import Any

from experiments.common.readme import markdown
from experiments.published.settings import LIMIT


def readme_tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """How many values each source has, how many of them disagree, and the largest |z|."""
    sources = list(dict.fromkeys(r["source"] for r in rows))
    lines = [_line(source, [r["z"] for r in rows if r["source"] == source]) for source in sources]
    lines.append(_line("all", [r["z"] for r in rows]))
    return {"sources": markdown(["source", "values", f"disagree (|z| > {LIMIT:g})", "largest |z|"], lines)}


def _line(source: str, z: list[float]) -> list[str]:
    disagree = sum(not abs(x) <= LIMIT for x in z)  # so that nan disagrees
    largest = max((abs(x) for x in z if math.isfinite(x)), default=math.nan)
    return [source, str(len(z)), str(disagree), f"{largest:.1f}"]
