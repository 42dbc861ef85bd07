"""The summary that is printed at the end: at most 40 lines, and the last one counts the parts."""

from typing import Any

from tests.gpu.report import DONE, say, short

MOST_LINES, WIDTH = 40, 200
Parts = dict[str, dict[str, Any]]


def summary(data: dict[str, Any]) -> int:
    """Print the summary of a report. Return 1 if a part failed."""
    parts = data["parts"]
    lines = ["", "SUMMARY", *machine_lines(parts), *check_lines(parts), *noise_lines(parts), *speed_lines(parts)]
    lines += other_lines(parts)
    for line in lines[: MOST_LINES - 1]:
        say(line[:WIDTH])
    states = [part["state"] for part in parts.values()]
    ok, failed, skipped = (states.count(state) for state in DONE)
    say(f"GPU parts: {ok} ok, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def section(parts: Parts, name: str, of: str) -> dict[str, Any]:
    return parts.get(name, {}).get(of, {})


def machine_lines(parts: Parts) -> list[str]:
    notes = section(parts, "a1", "notes")
    if not notes:
        return []
    device, versions = notes.get("device", {}), notes.get("versions", {})
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return [f"a1: {device.get('kind')}, {device.get('multiprocessors')} multiprocessors; {packages}"]


def check_lines(parts: Parts) -> list[str]:
    """One line for each part that is mostly checks."""
    lines = []
    for name, part in parts.items():
        if name == "a2" or name[0] in "be":
            right = sum(check["ok"] for check in part["checks"].values())
            skipped = f", {len(part['skipped'])} items skipped" if part["skipped"] else ""
            error = f"; {part['error'][:120]}" if part.get("error") else ""
            lines.append(f"{name}: {part['state']}, {right} of {len(part['checks'])} checks right{skipped}{error}")
    return lines


def noise_lines(parts: Parts) -> list[str]:
    lines = []
    for size, forms in section(parts, "c1", "notes").get("best", {}).items():
        top = sorted(forms.items(), key=lambda item: -item[1]["rate"])[:3]
        ours = forms.get("rgrad.noise.normal, a key for each row", {})
        best = "; ".join(f"{form} {short(found['rate'])}" for form, found in top)
        lines.append(f"c1 {size}: draws/s: {best}; rgrad's own {short(ours.get('rate', '-'))}")
    return lines


def speed_lines(parts: Parts) -> list[str]:
    lines = []
    for n, best in section(parts, "d1", "notes").get("best", {}).items():
        default = short(best["default"] or "-")
        lines.append(
            f"d1 measure, n = {n}: {default} draws/s with its own batch; best {short(best['rate'])} ({best['how']})"
        )
    for name, title in (("d2", "stock JAX"), ("d3", "PyTorch")):
        for which, best in section(parts, name, "notes").get("best", {}).items():
            ratio = short(best.get("speed-up of rgrad", "-"))
            lines.append(f"{name} {title}, n = {which}: {short(best['rate'])} draws/s; rgrad is {ratio} times as fast")
    if run := section(parts, "d4", "rows").get("long run"):
        memory = run["memory after"].get("peak_bytes_in_use")
        lines.append(
            f"d4: {short(run['draws'])} draws in {run['seconds']:.2f} s, {short(run['rate'])}/s; peak memory {memory}"
        )
    for name, unit in (("d5", "steps"), ("d6", "draws")):
        rows = section(parts, name, "rows")
        lines += [f"{name} {label}: {short(row['rate'])} {unit}/s" for label, row in rows.items()]
    shares = sorted(section(parts, "d7", "rows").items(), key=lambda item: -item[1]["share of the peak"])[:3]
    if shares:
        lines.append(
            "d7: " + "; ".join(f"{form} {100 * row['share of the peak']:.0f} % of the peak" for form, row in shares)
        )
    return lines


def other_lines(parts: Parts) -> list[str]:
    """The parts that are not ok and have no line yet."""
    return [
        f"{name}: {part['state']}: {part.get('error', '')[:150]}"
        for name, part in parts.items()
        if part["state"] != "ok" and not (name == "a2" or name[0] in "be")
    ]
