"""Moments over a grid of settings. `rgrad.sweep` is one call. The parts are for sweeps that are saved as they run."""

from rgrad.sweeps.cells import Cells, Extent, devices_for, extent_for, merged
from rgrad.sweeps.grid import Grid, each, grid_of
from rgrad.sweeps.sweep import Row, rows_of, take

__all__ = [
    "Cells",
    "Extent",
    "Grid",
    "Row",
    "devices_for",
    "each",
    "extent_for",
    "grid_of",
    "merged",
    "rows_of",
    "take",
]
