"""Plots a slice of a results folder: one column against another.

python -m experiments.plot DIR --x loc --y variance --hue estimator
"""

from typing import Literal

import tyro
from pydantic import BaseModel, field_validator

from experiments.common.paths import user_path
from experiments.common.settings import STRICT, WHERE, PathText

Scale = Literal["auto", "linear", "log"]


class PlotSettings(BaseModel):
    """Draws one column against another as lines, or over two others as heatmaps, from the table.csv of a results folder."""

    model_config = STRICT

    folder: tyro.conf.Positional[str] = ""
    """Folder with the results of a run."""
    x: str = ""
    """Column for the horizontal axis."""
    y: str = "variance"
    """Column for the vertical axis."""
    hue: str | None = None
    """Draw a line for each value of this column (with --heat: a panel)."""
    heat: str | None = None
    """Column that sets the colours of a heatmap over x and y."""
    where: WHERE = {}
    """Rows to select, e.g. n=100 parameter=loc."""
    x_scale: Scale = "auto"
    """Scale of the horizontal axis. auto: logarithmic if the values span more than a factor of 30."""
    y_scale: Scale = "auto"
    """Scale of the vertical axis."""
    out: PathText | None = None
    """Folder for the figure. Default: that of the results."""

    @field_validator("folder")
    @classmethod
    def _folder(cls, value: str) -> str:
        return value and user_path(value)  # without a folder, `run` says how to write the command
