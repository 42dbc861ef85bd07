"""The tables of this experiment's README."""

from experiments.audit.report import bias_of
from experiments.audit.study import Audited, code_of
from experiments.common.readme import markdown
from experiments.common.tables import number


def readme_tables(found: list[Audited]) -> dict[str, str]:
    """The verdict on each loss of the gallery, and the lines that cut the wrong ones."""
    verdicts = [
        [one.name, one.mistake or "right", one.audit.verdict, number(one.worst["gradient"], 2),
         number(one.worst["truth"], 2), bias_of(one)]
        for one in found if one.worst is not None
    ]  # fmt: skip
    cuts = [
        [one.name, f"`{code_of(cut)}`", f"`{cut.operation}`", f"{cut.share:.0%}"]
        for one in found for cut in one.audit.cuts
    ]  # fmt: skip
    return {
        "verdicts": markdown(
            ["loss", "mistake", "verdict", "gradient", "truth", "bias"], verdicts, ["mistake", "verdict"]
        ),
        "cuts": markdown(["loss", "line", "operation", "explains"], cuts, ["line", "operation"]),
    }
