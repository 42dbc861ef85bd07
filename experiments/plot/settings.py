"""A picture of any slice of a results folder: one column over another.

python -m experiments.plot DIR --x loc --y variance --hue estimator
"""

from typing import Literal

import tyro
from pydantic import BaseModel, ConfigDict

from experiments.common.settings import WHERE

Scale = Literal["auto", "linear", "log"]


class PlotSettings(BaseModel):
    """Lines of one column over another, or heatmaps over two, from the table.csv of a results folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    folder: tyro.conf.Positional[str] = ""
    """The folder of the results of a run."""
    x: str = ""
    """The column across."""
    y: str = "variance"
    """The column upward."""
    hue: str | None = None
    """A line for each value of this column; with --heat a panel."""
    heat: str | None = None
    """The column that colours a heatmap over x and y."""
    where: WHERE = {}
    """The rows to take, as n=100 parameter=loc."""
    x_scale: Scale = "auto"
    """Of the axis across; auto: logarithmic where the values span more than a factor of 30."""
    y_scale: Scale = "auto"
    """Of the axis upward."""
    out: str | None = None
    """The folder for the picture. Default: that of the results."""
