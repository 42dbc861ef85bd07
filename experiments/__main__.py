"""The list of experiments: python -m experiments."""

import sys

from experiments.common.readme import ExperimentEntry, entries


def listed(found: list[ExperimentEntry]) -> str:
    """Two lines for each experiment: its name and question, its command and time."""
    width = max((len(entry.name) for entry in found), default=0)
    each = (f"{e.name:{width}}  {e.question}\n{'':{width}}  {e.command}  ({e.duration})" for e in found)
    return "\n".join(each)


if __name__ == "__main__":
    if given := [word for word in sys.argv[1:] if word not in ("-h", "--help")]:
        print(f"error: {given[0]!r}: this takes no arguments; write python -m experiments.NAME", file=sys.stderr)
        sys.exit(2)
    print(listed(entries()))
