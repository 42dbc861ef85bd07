"""The one exception for bad input: it becomes one line on stderr and exit status 2, never a traceback."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """What was asked for cannot be done. The message names the call, the cause and the fix, in one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'? (there are: ...)`: the end of a message about an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (there are: {', '.join(known)})"
