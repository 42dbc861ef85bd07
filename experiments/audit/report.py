"""What `experiments.audit` prints."""

from experiments.audit.settings import AuditSettings
from experiments.audit.study import Audited, place_of, relative_to
from experiments.common.tables import number, print_table


def report(found: list[Audited], own: bool, settings: AuditSettings) -> None:
    """The audit of the user's loss, or a table of the gallery."""
    if own:
        (one,) = found
        print(f"{one.name} at {settings.params}\n\n{one.audit}\n")
        return
    if not settings.demo:
        print("There is no --loss, so these are the losses of the gallery (--demo).\n")
    header = ["loss", "verdict", "parameter", "gradient", "truth", "bias", "cut at"]
    lines = []
    for one in found:
        row, cuts = one.worst, one.audit.cuts
        numbers = ["-"] * 4 if row is None else [
            row["name"], number(row["gradient"], 3), number(row["truth"], 3), bias_of(one)
        ]  # fmt: skip
        cut = f"{place_of(cuts[0])}, {cuts[0].operation}" if cuts else "-"
        lines.append([one.name, one.audit.verdict, *numbers, cut])
    print_table(header, lines, "The parameter with the largest bias, relative to its derivative")
    wrong, right = ([one for one in found if one.right is flag] for flag in (False, True))
    print(
        f"wrong gradients that are called BIASED: {sum(one.audit.verdict == 'BIASED' for one in wrong)} of {len(wrong)}"
    )
    print(f"right gradients that are called ok: {sum(one.audit.ok for one in right)} of {len(right)}")


def bias_of(one: Audited) -> str:
    """The largest relative bias, in percent."""
    return "-" if one.worst is None else f"{one.worst['bias'] * relative_to(one.worst):+.0%}"
