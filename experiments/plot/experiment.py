"""Plots a slice of a results folder: one column against another."""

from pathlib import Path
from typing import Any

from experiments.common.errors import UsageError, nearest
from experiments.common.interrupt import held, keep
from experiments.common.long_table import TABLE, select, value_of
from experiments.common.long_table_figure import draw, draw_heat
from experiments.common.record import output_folder, write
from experiments.plot.settings import PlotSettings


def run(settings: PlotSettings) -> None:
    if not settings.folder or not settings.x:
        raise UsageError(
            "plot: DIR and --x are required, e.g. python -m experiments.plot DIR --x loc --y variance --hue estimator"
        )

    where = {name: value_of(text) for name, text in settings.where.items()}
    table = Path(settings.folder) / TABLE
    there = select(table, {}, keep=False)
    names: dict[str, Any] = {"--x": settings.x, "--y": settings.y, "--hue": settings.hue, "--heat": settings.heat}
    for flag, name in names.items():
        if name is not None and name not in there.columns:
            raise UsageError(f"{flag} {name}: {table} has no such column{nearest(name, there.columns)}")
    chosen = select(table, where)
    if not chosen.rows and not there.distinct:
        raise UsageError(f"{table}: it has no rows; give the folder with the results of a run")
    if not chosen.rows:
        name = next(
            (n for n, v in where.items() if not select(table, {n: v}, keep=False).distinct), next(iter(where), "")
        )
        values = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in there.distinct.get(name, [])[:8])
        raise UsageError(f"--where {name}={settings.where.get(name)}: no row has this value; give one of {values}, ...")
    title = ", ".join(f"{name} = {text}" for name, text in settings.where.items())
    scales = (settings.x_scale, settings.y_scale)
    if "/" in f"{settings.x}{settings.y}{settings.heat}":
        raise UsageError("--x, --y, --heat: a column name with / cannot be part of a file name; rename the column")
    if settings.heat:
        files = draw_heat(chosen.rows, settings.x, settings.y, settings.heat, settings.hue, title, scales)
        name = f"{settings.heat}-over-{settings.x}-{settings.y}"
    else:
        files = draw(chosen.rows, settings.x, settings.y, settings.hue, title, scales)
        name = f"{settings.y}-over-{settings.x}"
    with output_folder(settings.out or settings.folder, "plot") as folder:
        files = {file.replace("figure", name): content for file, content in files.items()}
        with held():
            write(folder, files)
            keep(f"the figure is in {folder}/")
    print(f"written to {folder}/: {', '.join(files)}")
