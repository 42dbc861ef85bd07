"""Reads a user's .csv file strictly: nothing is skipped, padded or read as something else."""

import csv
import io
from pathlib import Path

from experiments.common.errors import UsageError


def read_csv(path: str) -> tuple[list[str] | None, list[list[str]]]:
    """The names of the columns, or None if the first line holds only numbers; and the rows, as text stripped of spaces.

    The separator is a comma, or the semicolon or tab that spreadsheets write. All rows have the same number of cells.

    Raises:
        UsageError: the file cannot be read or is empty, a line is blank or has a different number of cells, or two
            columns have the same name.
    """
    where = f"--data {path}"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{where}: {_lower(error.strerror or str(error))}; give the path of a .csv file") from None
    except ValueError as error:  # not UTF-8, or a null byte in the path
        raise UsageError(f"{where}: cannot read it: {error}; give a .csv file in UTF-8") from None
    if "\0" in text:
        raise UsageError(f"{where}: it has a null byte, so it is not text; give a .csv file in UTF-8")
    text = text.rstrip(" \t\n")
    if not text:
        raise UsageError(f"{where}: it is empty; give a .csv file with data")
    separator = next((mark for mark in ";\t," if mark in text.partition("\n")[0]), ",")
    # Not splitlines: it also splits at a form feed, and without line breaks the reader joins the lines of a quoted cell.
    reader, rows = csv.reader(io.StringIO(text), delimiter=separator, strict=True), list[list[str]]()
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                raise UsageError(f"{where}: line {reader.line_num} is blank; remove it")
            if rows and len(cells) != len(rows[0]):
                hint = "; write numbers with a decimal point" if separator == "," and len(rows[0]) == 1 else ""
                count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                raise UsageError(f"{where}: line {reader.line_num} has {count}, not {len(rows[0])}; fix it{hint}")
            rows.append(cells)
    except csv.Error as error:
        raise UsageError(f"{where}: line {reader.line_num}: {error}; fix it") from None
    if all(_is_number(cell) for cell in rows[0]):
        return None, rows
    names = rows[0]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{where}: two columns are named {twice[0]!r}; rename one of them")
    return names, rows[1:]


def to_number(cell: str) -> float:
    """The number in a cell. Raises ValueError if it is not one, e.g. for 1_000 or for digits of other scripts."""
    if "_" in cell or not cell.isascii():
        raise ValueError(f"could not convert string to float: {cell!r}")
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        to_number(cell)
    except ValueError:
        return False
    return True


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
