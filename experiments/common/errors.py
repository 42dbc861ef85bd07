"""The exception for bad input. It is printed as one line on stderr, with exit status 2 and no traceback."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """The input is invalid. The message says in one line which flag it was, what is wrong, and what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'x'? (there are: ...)`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (there are: {', '.join(known)})"
