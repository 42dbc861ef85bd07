"""Runs a sweep into a folder: computes the missing chunks, then writes the tables."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import rgrad
from experiments.common.errors import UsageError
from experiments.common.interrupt import cleaned, held, keep
from experiments.common.loading import load_problem
from experiments.common.measuring import ProblemTask, prepare, usage
from experiments.common.record import output_folder, remove_leftovers
from experiments.sweep.axes import values_of
from experiments.sweep.folder import (
    PLAN,
    Chunk,
    SweepPlan,
    config_of,
    extended,
    is_working,
    read_chunk,
    read_plan,
    share_locked,
    write_chunk,
)
from experiments.sweep.origin import origin_of
from experiments.sweep.processes import Group
from experiments.sweep.progress import Meter
from experiments.sweep.table import write_results
from rgrad.sweeps import Cells, Extent, Grid, Row, devices_for, each, extent_for, grid_of, merged, rows_of, take

POLL = 0.2  # seconds between checks of what the other processes have done


class Work(NamedTuple):
    """The state of a sweep: the task, its grid and plan, and the devices of this process."""

    task: ProblemTask
    grid: Grid
    plan: SweepPlan
    devices: list[Any]
    folder: Path

    def cells(self, shape: int, settings: Any) -> Cells:
        extent = Extent(*self.plan.extents[shape])
        return Cells(
            self.grid, self.grid.shapes[shape], self.task.estimators, extent, self.devices, settings.common_noise
        )

    def blocks(self, shape: int) -> list[tuple[int, int]]:
        """The range of replicates of each chunk. Ranges that were requested later start where the earlier ones end."""
        most = Extent(*self.plan.extents[shape]).replicates
        ends = [0, *self.plan.replicates]
        return [(a + low, a + high) for a, b in itertools.pairwise(ends) for low, high in each(b - a, most)]

    def groups(self) -> Iterator[tuple[int, int, int, list[Chunk]]]:
        """Shape, first cell, number of cells, and their chunks, in the order of the table."""
        for shape in range(len(self.grid.shapes)):
            for first, stop in each(self.grid.cells, self.plan.extents[shape][0]):
                yield shape, first, stop - first, [Chunk(shape, first, a, b) for a, b in self.blocks(shape)]

    def rows(self) -> Iterator[Row]:
        """The rows of the whole table, a few cells at a time."""
        like = _like(self.grid, self.task)
        for shape, first, count, chunks in self.groups():
            parts = []
            for chunk in chunks:
                numbers = read_chunk(self.folder, self.plan, chunk)
                if numbers is None:
                    raise UsageError(f"{self.folder}: {chunk.name} is missing; continue with --resume {self.folder}")
                parts.append(_unpacked(numbers, chunk.stop - chunk.start, like[shape]))
            yield from rows_of(self.grid, self.grid.shapes[shape], first, merged(parts), count)


def sweep_to_folder(settings: Any, group: Group) -> None:
    """Runs the whole sweep, as one process of the group.

    Raises:
        UsageError: the settings are invalid, another process or sweep uses the folder, or the disk is full.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        work = _begun_together(settings, group, stack)
        group.disconnect()
        meter = Meter(work.grid.cells * len(work.grid.shapes))
        try:
            with cleaned(meter.close):
                _compute(work, settings, group, meter)
                if group.process == 0:
                    _wait_for_others(work, group)
        except UsageError as error:
            raise UsageError(f"{error} ({_message(work.folder)})") from None
        if group.process == 0:
            write_results(
                work.folder, work.rows, settings, meter, time.monotonic() - began, len(work.devices), group.processes
            )


def _message(folder: Path) -> str:
    return f"the finished chunks are kept; continue with --resume {folder}"


def _begun_together(settings: Any, group: Group, stack: contextlib.ExitStack) -> Work:
    """Process 0 starts the sweep and writes its plan, and the others read it. All must have the same settings and code.

    Raises:
        UsageError: one of the processes cannot continue. All of them raise it. Nothing is written if the settings are the
            reason.
    """
    with _settling(group) as settle:
        task, grid = _task_and_grid(settings)
        settle(json.dumps([config_of(settings), settings.replicates, origin_of(settings)], sort_keys=True))
    work: Work | None = None
    with _settling(group) as settle:
        if group.process == 0:
            with held():  # an interrupted sweep has a plan, or no folder
                work = _begun(settings, task, grid, stack)
        settle("")
    with _settling(group) as settle:
        work = work or _joined(settings, task, grid, group, stack)
        settle("")
    return work


@contextlib.contextmanager
def _settling(group: Group) -> Iterator[Callable[[str], None]]:
    """Calls `group.settle` at the end, with the argument of the function that it yields, or with the error."""
    same: list[str] = []
    refused: UsageError | None = None
    try:
        yield same.append
    except UsageError as error:
        refused = error
    group.settle(refused, "".join(same))


def _begun(settings: Any, task: ProblemTask, grid: Grid, stack: contextlib.ExitStack) -> Work:
    """Starts the sweep and writes its plan to the folder."""
    devices = _devices(settings)
    if settings.resume:
        folder = Path(settings.resume)
        plan = read_plan(folder)
        stack.enter_context(share_locked(folder, 0))
        after = extended(plan, settings)
    else:
        if settings.out and (Path(settings.out) / PLAN).exists():
            raise UsageError(f"--out {settings.out}: this folder already has a sweep; continue with --resume {settings.out}, or "
                             "give another folder")  # fmt: skip
        extent = lambda shape: extent_for(
            grid, shape, task.estimators, settings.replicates, devices, settings.common_noise, settings.chunk
        )
        with usage("--axes", Exception):
            after = SweepPlan(
                config_of(settings),
                origin_of(settings),
                [settings.replicates],
                [list(extent(shape)) for shape in grid.shapes],
            )
        folder = stack.enter_context(output_folder(settings.out, "sweep"))
        stack.enter_context(share_locked(folder, 0))
        plan = after._replace(replicates=[])
    try:
        (folder / "chunks").mkdir(exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder}: chunks is a file, not a folder; remove it") from None
    for place in (folder, folder / "chunks"):
        remove_leftovers(place)
    if after != plan:
        after.write(folder)
    keep(_message(folder))
    return Work(task, grid, after, devices, folder)


def _joined(settings: Any, task: ProblemTask, grid: Grid, group: Group, stack: contextlib.ExitStack) -> Work:
    """The work of a process other than 0, from the plan that process 0 has written."""
    folder = Path(settings.resume or settings.out)
    if not (folder / PLAN).exists():
        raise UsageError(f"--out {folder}: process {group.process} cannot see the files of process 0; give a folder "
                         "that all processes share")  # fmt: skip
    stack.enter_context(share_locked(folder, group.process))
    keep(_message(folder))
    return Work(task, grid, read_plan(folder), _devices(settings), folder)


def _task_and_grid(settings: Any) -> tuple[ProblemTask, Grid]:
    values = {name: values_of(name, axis) for name, axis in settings.axes.items()}
    with usage("--axes", ValueError, TypeError, AttributeError):
        grid = grid_of(load_problem(settings.problem), values, settings.params, settings.wrt or None)
    num_samples = tuple(dict.fromkeys(shape.n for shape in grid.shapes))
    for at in _corners(grid):  # values that are not allowed are nearly always at an end of an axis
        prepare(
            settings.model_copy(update={"params": settings.params | at}),
            settings.problem,
            settings.estimators[:1],
            num_samples[:1],
        )
    return prepare(settings, settings.problem, settings.estimators, num_samples), grid


def _corners(grid: Grid) -> list[dict[str, Any]]:
    fill = lambda name, value: np.broadcast_to(value, np.shape(grid.by_shape[grid.shapes[0]][1][name])).tolist()
    return [{name: fill(name, values[at]) for name, values in grid.axes.items()} for at in (0, -1) if grid.axes]


def _devices(settings: Any) -> list[Any]:
    with usage(f"--devices {settings.devices}", ValueError):
        return devices_for(settings.devices)


def _compute(work: Work, settings: Any, group: Group, meter: Meter) -> None:
    """Measures and writes the missing chunks of this process."""
    key = jax.random.key(settings.seed)
    number = 0
    for index, shape in enumerate(work.grid.shapes):
        cells: Cells | None = None
        for _, first, count, chunks in (g for g in work.groups() if g[0] == index):
            for chunk in chunks:
                number += 1
                if number % group.processes != group.process:
                    continue
                share = count * (chunk.stop - chunk.start) / work.plan.replicates[-1]
                if read_chunk(work.folder, work.plan, chunk) is not None:
                    meter.skip(share)
                    continue
                if cells is None:
                    cells = work.cells(index, settings)
                moments = cells.measure(key, first, chunk.start, chunk.stop)
                write_chunk(work.folder, work.plan, chunk, _packed(take(moments, count)))
                if list(cells.extent) != work.plan.extents[index]:  # memory ran out, so the extent was reduced
                    work.plan.extents[index] = list(cells.extent)
                    work.plan.write(work.folder)
                meter.advance(share, float(count) * (chunk.stop - chunk.start) * shape.n)


def _wait_for_others(work: Work, group: Group) -> None:
    """Waits until all chunks are there.

    Raises:
        UsageError: a process ended before its share was done.
    """
    if group.processes == 1:
        return
    for number, chunk in enumerate(itertools.chain.from_iterable(group[3] for group in work.groups()), 1):
        path, owner = work.folder / "chunks" / chunk.name, number % group.processes
        while not path.exists():
            if owner and not is_working(work.folder, owner) and not path.exists():
                raise UsageError(f"process {owner} ended before its share was done")
            time.sleep(POLL)


def _packed(moments: rgrad.Moments) -> np.ndarray[Any, Any]:
    """Shape `(7, cells, numbers)`: mean, m2, m3, m4, nonfinite, constant and binary for the numbers of all estimators."""
    flat = lambda tree: np.concatenate([np.reshape(a, (len(a), -1)) for a in jax.tree.leaves(tree)], 1)
    return np.stack([flat(tree).astype(np.float64) for tree in moments[1:]])


def _unpacked(numbers: np.ndarray[Any, Any], count: int, like: Any) -> rgrad.Moments:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def tree(flat: np.ndarray[Any, Any]) -> Any:
        pieces = [
            flat[:, end - leaf.size : end].reshape(-1, *leaf.shape) for leaf, end in zip(leaves, ends, strict=True)
        ]
        return jax.tree.unflatten(structure, pieces)

    mean, m2, m3, m4, nonfinite, *flags = (tree(flat) for flat in numbers)  # earlier versions wrote no flags
    whole, marks = (
        lambda tree, dtype=dtype: jax.tree.map(lambda a: a.astype(dtype), tree) for dtype in (np.int64, bool)
    )
    return rgrad.Moments(np.int64(count), mean, m2, m3, m4, whole(nonfinite), *map(marks, flags))


def _like(grid: Grid, task: ProblemTask) -> list[Any]:
    """For each shape: empty arrays by estimator and parameter."""
    of = lambda shape: {name: np.empty(np.shape(grid.by_shape[shape][1][name])) for name in grid.wrt}
    return [{name: of(shape) for name in task.estimators} for shape in grid.shapes]
