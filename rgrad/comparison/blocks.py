"""Blocks of coordinates. NumPy is several times faster if its intermediate results fit in the cache of a core."""

from collections.abc import Iterator

NUMBERS = 2**17  # in one block, in 64 bits: 1 MB


def blocks(size: int, rows: int) -> Iterator[slice]:
    """Slices of `size` columns, one after another, such that `rows` of them have about `NUMBERS` numbers together."""
    width = max(64, NUMBERS // rows)
    for start in range(0, size, width):
        yield slice(start, start + width)
