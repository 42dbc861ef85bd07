"""Reads the tutorials: Python files in percent format, in which `# %%` starts a cell of code and `# %% [markdown]` one of text.

Nothing here imports jax.
"""

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent.parent / "tutorials"

_START = re.compile(r"^# %%(.*)\n", re.M)


class TutorialCell(NamedTuple):
    """A cell: code, or text without the `#` at the start of each line."""

    is_code: bool
    text: str


def tutorial_files() -> list[Path]:
    """The tutorials, in order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def cells(path: Path) -> list[TutorialCell]:
    """The cells of a tutorial, in order."""
    _, *parts = _START.split(path.read_text(encoding="utf-8"))
    found = []
    for kind, body in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            lines = [re.sub(r"^# ?", "", line) for line in body.strip().splitlines()]
            found.append(TutorialCell(False, "\n".join(lines)))
        else:
            found.append(TutorialCell(True, body.strip("\n") + "\n"))
    return found


def title(path: Path) -> str:
    """The heading of a tutorial."""
    return cells(path)[0].text.splitlines()[0].removeprefix("# ")


def listed_tutorials() -> str:
    """A numbered list in Markdown, with a link to each tutorial."""
    return "\n".join(f"{i}. [{title(path)}]({path.name})" for i, path in enumerate(tutorial_files(), 1))
