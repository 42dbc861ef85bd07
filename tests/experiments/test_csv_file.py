"""A user's .csv file is read as it is, or refused with the line and the reason."""

from pathlib import Path

import pytest

from experiments.common.csv_file import read_csv, to_number
from experiments.common.errors import UsageError

READ = {
    "names": ("x,y\n1,2\n3,4\n", (["x", "y"], [["1", "2"], ["3", "4"]])),
    "no names": ("1\n-2e3\n", (None, [["1"], ["-2e3"]])),
    "semicolons and decimal commas": ("x;y\n1,5;2\n", (["x", "y"], [["1,5", "2"]])),
    "tabs": ("x\ty\n1\t2\n", (["x", "y"], [["1", "2"]])),
    "spaces, quotes and a byte order mark": ('\ufeff x , "a, b"\r\n 1 , 2 \r\n', (["x", '"a', 'b"'], None)),
    "quotes": ('x,"a, b"\n1,2\n', (["x", "a, b"], [["1", "2"]])),
    "blank lines at the end": ("x\n1\n\n \n", (["x"], [["1"]])),
}
REFUSED = {
    "nothing": ("", "it is empty"),
    "spaces": (" \n\n", "it is empty"),
    "a blank line": ("x\n1\n\n2\n", "line 3 is blank; remove it"),
    "a short row": ("x,y\n1,2\n3\n", "line 3 has 1 cell, not 2; fix it"),
    "a long row": ("x,y\n1,2,3\n", "line 2 has 3 cells, not 2; fix it"),
    "decimal commas": ("x\n1,5\n", "line 2 has 2 cells, not 1; fix it; write numbers with a decimal point"),
    "equal names": ("x,y,x\n1,2,3\n", "two columns are named 'x'; rename one of them"),
    "an open quote": ('x\n"1\n', "line 2: unexpected end of data; fix it"),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name, tmp_path):
    text, want = READ[name]
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    if want[1] is None:  # a space before a quote is part of the cell, so the comma within separates
        with pytest.raises(UsageError, match="line 2 has 2 cells, not 3"):
            read_csv(str(tmp_path / "a.csv"))
    else:
        assert read_csv(str(tmp_path / "a.csv")) == want


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    text, message = REFUSED[name]
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_csv(str(path))
    assert str(error.value).startswith(f"--data {path}: ")
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"x\n\xe9\n")
    for path, message in (
        (tmp_path / "no.csv", "no such file or directory"),
        (tmp_path, "is a directory"),
        (tmp_path / "latin.csv", "give a .csv file in UTF-8"),
        (Path("a\0b"), "cannot read it: embedded null"),
    ):
        with pytest.raises(UsageError, match=message):
            read_csv(str(path))


@pytest.mark.parametrize("cell", ["1_000", "x", "", "1,5", "\u0661"])
def test_what_is_not_a_number(cell):
    with pytest.raises(ValueError, match="could not convert"):
        to_number(cell)
