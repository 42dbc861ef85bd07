"""The same measurement over a grid of settings: thousands of cells, on all devices, resumable after a kill.

python -m experiments.sweep --config configs/sweep.toml
"""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from experiments.common.errors import UsageError
from experiments.common.settings import ONCE, PathText, ProblemSettings
from experiments.sweep.axes import AXES, Axis, checked
from experiments.sweep.folder import stored


class SweepSettings(ProblemSettings):
    """The mean and the variance of gradient estimates in every cell of a grid.

    With no flags: E[x^2], x ~ N(loc, scale^2), with three estimators, over loc, scale and n.
    """

    problem: str = "square"
    """A built-in problem, or your own as package.module:attribute or file.py:attribute."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
    )
    """Names of estimators, or your own as module:function."""
    axes: Annotated[dict[str, Axis], Field(min_length=1), AXES] = {  # noqa: RUF012 (a copy for each model)
        "loc": {"from": -3.0, "to": 3.0, "points": 61},
        "scale": {"from": 0.1, "to": 10.0, "points": 21, "log": True},
        "n": [10, 100, 1000],
    }
    """Axes: parameters, n (samples in one estimate) and dimension, e.g. loc=-3:3:61 scale=log:0.1:10:21 n=10,100."""
    replicates: Annotated[int, Field(ge=2, le=2**62)] = 1_000
    """Independent estimates in each cell, an integer."""
    common_noise: bool = False
    """Share one stream of noise between all cells with the same n. Faster, and differences between cells are less noisy."""
    devices: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Number of devices of this machine to use. A CPU is split into this many. Default: all devices, or one CPU."""
    chunk: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Cells that are measured and written at once. Default: chosen automatically."""
    resume: PathText | None = None
    """Folder of a sweep to continue. --replicates may be larger. Other settings must not change. Repeat --problem if it is your own."""
    coordinator: str | None = None
    """HOST:PORT of process 0, if several processes share the work."""
    processes: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Number of processes, including this one."""
    process: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Number of this process, from 0."""
    cluster: bool = False
    """Let jax find the other processes (Slurm, Kubernetes, ...)."""
    wait: Annotated[int, Field(ge=1, le=604_800)] = 300
    """Seconds to wait for the other processes, an integer, up to a week."""

    @field_validator("axes", mode="before")
    @classmethod
    def _axes(cls, axes: Any) -> Any:
        return checked(axes) if isinstance(axes, dict) else axes  # the validation of types rejects the latter

    @classmethod
    def resumed(cls, path: str) -> dict[str, Any]:
        """The settings that `--resume PATH` uses instead of the defaults."""
        return stored(Path(path))


def before_jax(settings: SweepSettings) -> None:
    """Checks the flags for several processes and sets the number of CPU devices, before jax starts.

    Raises:
        UsageError: the flags contradict each other.
    """
    _check_processes(settings)
    if settings.devices is not None and settings.platform in ("auto", "cpu"):
        os.environ["JAX_NUM_CPU_DEVICES"] = str(settings.devices)  # read when the CPU is first used


def _check_processes(settings: SweepSettings) -> None:
    where, processes, process = settings.coordinator, settings.processes, settings.process
    if where is not None and processes is not None and process is not None:
        host, _, port = where.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 2**16:
            raise UsageError(f"--coordinator {where}: write HOST:PORT, e.g. 10.0.0.1:7777")
        if process >= processes:
            raise UsageError(f"--process {process}: processes are numbered from 0; give 0 to {processes - 1}")
    elif (where, processes, process) != (None, None, None):
        raise UsageError("--coordinator, --processes and --process belong together; give all three")
    if settings.cluster and where:
        raise UsageError(
            "--cluster: jax finds the processes itself; leave out --coordinator, --processes and --process"
        )
    if (settings.cluster or settings.processes) and not (settings.out or settings.resume):
        raise UsageError("--out: several processes write to one folder; give a folder that all of them can access")
    if settings.out and settings.resume:
        raise UsageError(f"--out {settings.out}: --resume continues in its own folder; leave out one of the two")
