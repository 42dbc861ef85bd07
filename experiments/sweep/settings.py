"""The same measurement over a grid of settings: thousands of cells, on all devices, safe to kill.

python -m experiments.sweep --config configs/sweep.toml
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from experiments.common.errors import UsageError
from experiments.common.settings import ONCE, ProblemSettings
from experiments.sweep.axes import AXES, Axis, checked
from experiments.sweep.folder import stored


class SweepSettings(ProblemSettings):
    """The mean and the variance of gradient estimates in every cell of a grid.

    With no flags: E[x^2], x ~ N(loc, scale), by three estimators over loc, scale and N.
    """

    problem: str = "square"
    """A shipped problem, or your own: package.module:attribute, or file.py:attribute."""
    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function",
        "score_function+leave_one_out",
    )
    """By name, or your own as module:function."""
    axes: Annotated[dict[str, Axis], AXES] = {  # noqa: RUF012 (a copy for each model)
        "loc": {"from": -3.0, "to": 3.0, "points": 61},
        "scale": {"from": 0.1, "to": 10.0, "points": 21, "log": True},
        "n": [10, 100, 1000],
    }
    """Parameters, n (samples of one estimate) and dimension: loc=-3:3:61 scale=log:0.1:10:21 n=10,100."""
    replicates: Annotated[int, Field(ge=2, le=2**62)] = 1_000
    """How many independent estimates each cell is measured over, an integer."""
    common_noise: bool = False
    """All cells of one N share one stream of noise: faster, and differences between cells are less noisy."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""
    devices: Annotated[int, Field(ge=1)] | None = None
    """How many devices of this machine to use; of a CPU that many are made. Default: all; one CPU."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """How many cells are measured and written at once. Default: found by itself."""
    resume: str | None = None
    """The folder of a sweep that was stopped, to go on there; only --replicates may differ, and grow."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where several processes share the work."""
    processes: Annotated[int, Field(ge=1)] | None = None
    """How many processes there are, this one included."""
    process: Annotated[int, Field(ge=0)] | None = None
    """Which of them this is, from 0."""
    cluster: bool = False
    """Let jax find the other processes by itself (Slurm, Kubernetes, ...)."""
    wait: Annotated[int, Field(ge=1)] = 300
    """Seconds to wait for the other processes, an integer."""

    @field_validator("axes")
    @classmethod
    def _axes(cls, axes: dict[str, Axis]) -> dict[str, Axis]:
        return checked(axes)

    @classmethod
    def resumed(cls, path: str) -> dict[str, Any]:
        """What `--resume PATH` begins with, in place of the defaults."""
        return stored(Path(path))


def before_jax(settings: SweepSettings) -> None:
    """What has to be known before jax starts: that the processes can be found, and how many devices a CPU has.

    Raises:
        UsageError: flags that do not go together.
    """
    _check_processes(settings)
    if settings.devices is not None and settings.platform in ("auto", "cpu"):
        os.environ["JAX_NUM_CPU_DEVICES"] = str(settings.devices)  # read when the CPU is first used


def _check_processes(settings: SweepSettings) -> None:
    where, processes, process = settings.coordinator, settings.processes, settings.process
    if where is not None and processes is not None and process is not None:
        host, _, port = where.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise UsageError(f"--coordinator {where}: write HOST:PORT, as 10.0.0.1:7777")
        if process >= processes:
            raise UsageError(f"--process {process}: processes are numbered from 0; give 0 to {processes - 1}")
    elif (where, processes, process) != (None, None, None):
        raise UsageError("--coordinator, --processes and --process go together; give all three")
    if settings.cluster and where:
        raise UsageError("--cluster: jax then finds the processes by itself; leave --coordinator and the others out")
    if (settings.cluster or settings.processes) and not (settings.out or settings.resume):
        raise UsageError("--out: several processes write into one folder; name it, where all of them can see it")
    if settings.out and settings.resume:
        raise UsageError(f"--out {settings.out}: --resume goes on in its own folder; leave one of them out")
