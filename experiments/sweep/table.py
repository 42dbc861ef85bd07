"""Writes the results of a sweep with a few rows in memory at a time: table.csv, table.parquet, result.json, figure."""

import csv
import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.common.long_table import MEASURED, select
from experiments.common.long_table_figure import draw
from experiments.common.readme import readme_of
from experiments.common.record import plain, provenance, rewrite_readme, saved, written
from experiments.common.tables import number, print_table
from experiments.sweep.readme import readme_tables
from rgrad.sweeps import Row

AT_ONCE = 4096  # rows
FIRST = ("dimension", "n")
NOT_AXES = {"estimator", "parameter", *MEASURED}


def write_results(
    folder: Path,
    rows: Callable[[], Iterator[Row]],
    settings: Any,
    meter: Any,
    seconds: float,
    devices: int,
    processes: int,
) -> None:
    """Writes all files from the finished chunks, and prints the report."""
    summary = Summary()
    with written(folder, "table.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        for row in summary.of(rows()):
            if summary.rows == 1:
                writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
                writer.writeheader()
            writer.writerow(plain(row))
    names = ["table.csv"]
    if importlib.util.find_spec("pyarrow"):
        _parquet(folder, rows())
        names.append("table.parquet")
    speed = {
        "cells": meter.made,
        "draws": meter.draws,
        "seconds": round(meter.seconds, 2),
        "draws_per_second": meter.draws / meter.seconds,
        "devices": devices,
        "processes": processes,
    }
    result = {
        "experiment": "sweep",
        "config": settings.model_dump(mode="json", exclude={"out", "config", "readme"}),
        "provenance": provenance(settings.seed, settings.float_width, seconds) | {"cpus": os.cpu_count()},
        "speed": speed,
        "rows": summary.table(),
    }
    files = {"result.json": (json.dumps(plain(result), indent=2, allow_nan=False) + "\n").encode()}
    with saved(folder, files, lambda: _figure(folder, settings)) as figures:
        summary.report(settings)
        _print_speed(speed)
        if "table.parquet" not in names:
            print("no table.parquet: pyarrow is not installed (pip install -e '.[sweep]')")
        print(f"written to {folder}/: {', '.join([*names, *files, *figures])}")
    if settings.readme:
        rewrite_readme(readme_of("sweep"), readme_tables(summary.table()), figures)


def _print_speed(speed: dict[str, Any]) -> None:
    if speed["cells"]:
        print(f"{speed['cells']:,.0f} cells in {speed['seconds']:,.1f} s, {speed['draws']:.2e} draws: {speed['draws_per_second']:.2e} "
              f"draws/s in this process, including compilation, on {speed['devices']} device(s)")  # fmt: skip


def _parquet(folder: Path, rows: Iterator[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with written(folder, "table.parquet") as path:
        writer = None
        for some in itertools.batched(rows, AT_ONCE) if hasattr(itertools, "batched") else _batched(rows):
            table = pa.Table.from_pylist([plain(row) for row in some], schema=writer.schema if writer else None)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def _batched(rows: Iterator[Row]) -> Iterator[tuple[Row, ...]]:
    while some := tuple(itertools.islice(rows, AT_ONCE)):
        yield some


def _figure(folder: Path, settings: Any) -> dict[str, bytes]:
    """The variance along the longest axis. The other axes are at their middle values."""
    table = folder / "table.csv"
    distinct = select(table, {}, keep=False).distinct
    values = {name: found for name, found in distinct.items() if name not in NOT_AXES}
    longest = max(values, key=lambda name: (len(values[name]), name))
    where = {name: found[len(found) // 2] for name, found in values.items() if name != longest and len(found) > 1}
    parameter = distinct["parameter"][0]
    chosen = select(table, where | {"parameter": parameter})
    title = ", ".join(f"{name} = {float(value):.3g}" for name, value in where.items())
    return draw(
        chosen.rows,
        longest,
        "variance",
        "estimator",
        f"Problem {settings.problem}, gradient estimate of d/d {parameter}{f' at {title}' if title else ''}",
    )


class Summary:
    """The range of the variance by estimator and parameter, and in how many cells each estimator has the lowest."""

    def __init__(self) -> None:
        self.rows = 0
        self.found: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._cell: tuple[Any, ...] | None = None
        self._best: dict[str, tuple[float, tuple[Any, ...]]] = {}

    def of(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.rows += 1
            self._add(row)
            yield row
        self._close_cell()

    def _add(self, row: Row) -> None:
        cell = tuple(value for name, value in row.items() if name not in NOT_AXES)
        if cell != self._cell:
            self._close_cell()
            self._cell = cell
        place = tuple(row[name] for name in FIRST if name in row) + (row["estimator"], row["parameter"])
        of = self.found.setdefault(
            place, {"cells": 0, "nonfinite": 0, "lowest": float("inf"), "highest": 0.0, "best": 0}
        )
        of["cells"] += 1
        variance = row["variance"]
        if row["nonfinite"]:
            of["nonfinite"] += 1
            return
        of["lowest"], of["highest"] = min(of["lowest"], variance), max(of["highest"], variance)
        if variance < self._best.get(row["parameter"], (float("inf"),))[0]:
            self._best[row["parameter"]] = (variance, place)

    def _close_cell(self) -> None:
        for _, place in self._best.values():
            self.found[place]["best"] += 1
        self._best = {}

    def table(self) -> list[Row]:
        names = (*FIRST, "estimator", "parameter")
        return [dict(zip(names[-len(place) :], place, strict=True)) | of for place, of in self.found.items()]

    def report(self, settings: Any) -> None:
        lines, first = [], self.table()[0]
        for of in self.table():
            where = [str(of[name]) for name in FIRST if name in first]
            lines.append([
                of["estimator"], of["parameter"], *where, f"{of['cells']:,}", number(of["lowest"]), number(of["highest"]),
                f"{of['best']:,}", f"{of['nonfinite']:,}" if of["nonfinite"] else "",
            ])  # fmt: skip
        header = ["estimator", "d/d", *("n" if name == "n" else "D" for name in FIRST if name in first), "cells"]
        print_table([*header, "lowest variance", "highest", "lowest of all in", "nan in"], lines,
                    f"{settings.problem}: {settings.replicates:,} gradient estimates per cell and estimator")  # fmt: skip
