"""Tables and numbers as text."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints a table on stdout."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE)
    for i, name in enumerate(header):
        table.add_column(escape(name), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    # Wide enough for any table. A narrower terminal wraps the lines, and no number is cut.
    Console(width=250).print(table)


def number(x: float | None, digits: int = 4) -> str:
    return "-" if x is None else f"{x:.{digits}g}"
