"""The table of this experiment's README."""

from typing import Any

from experiments.common.readme import markdown
from experiments.common.tables import number

TERMS = ("score_function", "reparameterized", "r_square", "slope_square", "twice_r_curvature")


def readme_tables(reasons: list[dict[str, Any]]) -> dict[str, str]:
    """The two variances of each example, and the three terms of their difference."""
    text = lambda r: r["r"].replace(r["knob"], f"{r['value']:g}")
    lines = [[f"`{text(r)}`", *(number(r[name], 3) for name in TERMS)] for r in reasons]
    return {"terms": markdown(["r(z)", "REINFORCE", "reparameterized", "E r^2", "E r'^2", "2 E r r''"], lines)}
