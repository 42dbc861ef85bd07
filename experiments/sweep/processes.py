"""Several processes on one sweep. Each works on its share of the chunks.

The runtime of jax connects them until all have agreed on the sweep. After that they need only the folder. So if one of them
is lost, the others finish their shares. While they are connected, jax would abort all of them.
"""

import errno
import hashlib
import os
import socket
import sys
import threading
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common.errors import UsageError

GRACE = 60  # seconds from our time-out to that of jax, which would end the process with a stack trace


class Group(NamedTuple):
    """The number of processes, and the index of this one."""

    processes: int = 1
    process: int = 0

    def settle(self, refused: UsageError | None = None, same: str = "") -> None:
        """Raises an error in every process if any of them refuses, or if its `same` differs from that of process 0.

        All processes wait for each other here.

        Args:
            refused: the reason why this process cannot continue.
            same: what must be the same in all processes, as hexadecimal digits.
        """
        if self.processes > 1:
            from jax.experimental import multihost_utils

            own = np.frombuffer(hashlib.sha256(same.encode()).digest(), np.uint32) * (refused is None)
            every = np.asarray(multihost_utils.process_allgather(own)).reshape(self.processes, -1)
            others = np.flatnonzero(~every.any(1))
            if refused is None and others.size:
                refused = UsageError(f"process {others[0]} could not start; see its message")
            unlike = np.flatnonzero((every != every[0]).any(1))
            if refused is None and unlike.size:
                refused = UsageError(
                    f"process {unlike[0]} has other settings, code or versions than process 0; start all processes with the "
                    "same flags, except --process"
                )
            if refused is not None:
                self.disconnect()  # in all processes, so none of them waits for another
        if refused is not None:
            raise refused

    def disconnect(self) -> None:
        """Ends the connection, in all processes together."""
        if self.processes > 1:
            jax.distributed.shutdown()


def join(settings: Any) -> Group:
    """Connects this process to the others and waits for all of them.

    Raises:
        UsageError: jax cannot find or connect the processes.
    """
    if not (settings.cluster or settings.processes):
        return Group()
    _check_port(settings)
    late = threading.Timer(settings.wait, _give_up, [settings])
    late.daemon = True
    late.start()
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM, which then ends nothing
    try:
        where = {} if settings.cluster else {
            "coordinator_address": settings.coordinator,
            "num_processes": settings.processes,
            "process_id": settings.process,
        }  # fmt: skip
        jax.distributed.initialize(**where, initialization_timeout=settings.wait + GRACE)
        group = Group(jax.process_count(), jax.process_index())
        # The first exchange connects all processes, and may also wait that long.
        group.settle()
        return group
    except (ValueError, RuntimeError) as error:
        what = "--cluster" if settings.cluster else f"--coordinator {settings.coordinator}"
        raise UsageError(
            f"{what}: {' '.join(str(error).split())}; give --coordinator, --processes and --process"
        ) from None
    finally:
        late.cancel()


def _check_port(settings: Any) -> None:
    """Raises UsageError if process 0 cannot listen at its port. jax would crash."""
    if settings.coordinator and settings.process == 0:
        host, _, port = settings.coordinator.rpartition(":")
        try:
            socket.create_server((host, int(port))).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # other errors are fine: jax listens at all addresses, not at this one
                raise UsageError(
                    f"--coordinator {settings.coordinator}: another program uses this port; give another port, the same in "
                    "all processes"
                ) from None


def _give_up(settings: Any) -> None:
    """Ends the process, because jax waits in a call that cannot be interrupted."""
    who = f"the {settings.processes} processes" if settings.processes else "the processes of the cluster"
    print(
        f"error: --wait {settings.wait}: after {settings.wait} seconds not all of {who} have connected; start each with the "
        "same --coordinator and its own --process, or give fewer --processes",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
