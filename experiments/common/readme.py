"""Reads the heads of the experiments' READMEs, and rewrites the marked tables in them.

A README starts with `# QUESTION`, an answer in bold, and a `bash` block with the command and its duration:

    # How much noisier is REINFORCE?

    **22 times, for E[x^2].** Details may follow.

    ```bash
    python -m experiments.variance  # 10 seconds
    ```

A table that a command writes is between `<!-- table: NAME -->` and `<!-- end -->`. Nothing here imports jax.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.common.errors import UsageError, nearest
from experiments.common.tables import number

HOME = Path(__file__).parent.parent
README = "README.md"
PICTURE = "figure.png"

_BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
_HEAD = re.compile(r"# (.+)\n\n\*\*(.+?)\*\*.*?```bash\n(\S.*?)  # (.+?)\n", re.S)


class ExperimentEntry(NamedTuple):
    """An experiment, as its README introduces it."""

    name: str
    question: str
    answer: str
    command: str
    duration: str
    picture: bool
    """Whether there is a figure.png."""


def entries(home: Path | None = None) -> list[ExperimentEntry]:
    """Every experiment, by name. A folder without a command, e.g. that of the tutorials, is not an experiment."""
    found = []
    for path in (main.parent / README for main in sorted((home or HOME).glob("*/__main__.py"))):
        head = _HEAD.match(path.read_text(encoding="utf-8"))
        if head is None:
            raise ValueError(f"{path}: it must start with `# QUESTION`, `**answer**` and a bash block")
        question, answer, command, duration = (" ".join(part.split()) for part in head.groups())
        picture = (path.parent / PICTURE).exists()
        found.append(ExperimentEntry(path.parent.name, question, answer, command, duration, picture))
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()) -> str:
    """A markdown table. The first column and those in `words` are aligned left, the others right."""
    rule = ["---" if i == 0 or name in words else "---:" for i, name in enumerate(header)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def plus_minus(value: float, half: float) -> str:
    """`3.142 +- 0.021`: an estimate and the half-width of its 95 % interval, with two digits."""
    if not 0 < half < math.inf:
        return f"{number(value)} +- {half:g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{value:.{decimals}f} +- {half:.{decimals}f}"


def names_of_tables(text: str) -> list[str]:
    return [name for _, name, _ in _BLOCK.findall(text)]


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """The text with these tables in the blocks of their names; other blocks are unchanged.

    Raises:
        UsageError: a table has no block.
    """
    there = names_of_tables(text)
    for name in tables:
        if name not in there:
            raise UsageError(f"--readme: README.md has no block `<!-- table: {name} -->`{nearest(name, there)}")
    replaced = lambda block: f"{block[1]}{tables[block[2]]}\n{block[3]}" if block[2] in tables else block[0]
    return _BLOCK.sub(replaced, text)


def readme_of(experiment: str) -> Path:
    """The README of an experiment.

    Raises:
        UsageError: there is none, e.g. because this is not a checkout.
    """
    path = HOME / experiment / README
    if not path.is_file():
        raise UsageError(f"--readme: there is no file {path}; run it in a checkout of the repository")
    return path


def readme_files(path: Path, tables: Mapping[str, str], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The README with these tables, and the picture of the run if the README shows it."""
    text = with_tables(path.read_text(encoding="utf-8"), tables)
    picture = {PICTURE: files[PICTURE]} if f"]({PICTURE})" in text else {}
    return {README: text.encode(), **picture}
