"""Several processes on one sweep: jax's own runtime brings them together, and each works on its share of the chunks."""

import os
import sys
import threading
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common.errors import UsageError

GRACE = 60  # seconds that jax's own time-out comes after ours: it would end the process with a stack trace


class Group(NamedTuple):
    """The processes: how many, and which this is."""

    processes: int = 1
    process: int = 0

    def agree(self, good: bool) -> bool:
        """What process 0 says, told to all: each waits for it here."""
        if self.processes == 1:
            return good
        from jax.experimental import multihost_utils

        return bool(multihost_utils.broadcast_one_to_all(np.int32(good)))


def join(settings: Any) -> Group:
    """This process among the others, all of which are waited for.

    Raises:
        UsageError: `--cluster`, and jax finds none.
    """
    if not (settings.cluster or settings.processes):
        return Group()
    late = threading.Timer(settings.wait, _give_up, [settings])
    late.daemon = True
    late.start()
    try:
        where = {} if settings.cluster else {
            "coordinator_address": settings.coordinator,
            "num_processes": settings.processes,
            "process_id": settings.process,
        }  # fmt: skip
        jax.distributed.initialize(**where, initialization_timeout=settings.wait + GRACE)
        group = Group(jax.process_count(), jax.process_index())
        # The first exchange between them connects all, and may wait just as long.
        group.agree(True)
        return group
    except (ValueError, RuntimeError) as error:
        what = "--cluster" if settings.cluster else f"--coordinator {settings.coordinator}"
        raise UsageError(
            f"{what}: {' '.join(str(error).split())}; give --coordinator, --processes and --process"
        ) from None
    finally:
        late.cancel()


def leave(group: Group) -> None:
    """Says good-bye to the others, so that none takes this process for dead."""
    if group.processes > 1 and sys.exc_info()[0] is None:
        jax.distributed.shutdown()


def _give_up(settings: Any) -> None:
    """Ends the process: jax waits inside of a call that cannot be interrupted."""
    who = f"the {settings.processes} processes" if settings.processes else "the processes of the cluster"
    print(
        f"error: --wait {settings.wait}: after {settings.wait} seconds not all of {who} are there; start each with the same "
        "--coordinator and its own --process, or give fewer --processes",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def use_platform(jax: Any, platform: str) -> None:
    """Raises UsageError where there is no such device."""
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # jax then does not even look for others
    found = jax.default_backend()
    if platform not in ("auto", found):
        raise UsageError(f"--platform {platform}: jax found {found} alone; {_install(platform)}")


def _install(platform: str) -> str:
    return "install '.[cuda13]' for an NVIDIA GPU, or leave it out" if platform == "gpu" else "leave it out"
