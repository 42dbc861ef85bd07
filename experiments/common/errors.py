"""The exception for bad input. It is printed as one line on stderr, with exit status 2 and no traceback."""

from rgrad.errors import nearest

__all__ = ["UsageError", "nearest"]


class UsageError(Exception):
    """The input is invalid. The message says in one line which flag is wrong, why, and what to do."""
