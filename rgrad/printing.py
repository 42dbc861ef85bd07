"""Results as short tables: as text, in a notebook, and for pandas."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import jax

SHOWN = 12  # the most lines of a printed table


def as_table(header: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """The lines below the header, in aligned columns. The first `left` columns are aligned to the left."""
    every = [header, *lines]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    aligned = lambda line: [
        cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    ]
    return "\n".join("  ".join(aligned(line)).rstrip() for line in every)


def more(count: int) -> list[str]:
    """The line below a table that does not show everything."""
    return [f"... and {count - SHOWN:,} more: see .rows"] if count > SHOWN else []


def is_traced(result: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(result))


class Printed:
    """The base of a result with `rows` and `__str__`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas  # optional

        return pandas.DataFrame(list(self.rows))  # type: ignore[attr-defined]
