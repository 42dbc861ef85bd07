"""The XLA flag that JAX needs to compile sums and products correctly on CPU. It is set before JAX starts.

On CPU, jaxlib 0.10.2 to 0.12 pass sums and matrix products to a library that mishandles broadcasts: `jax.jit` of
`((x + 1) @ ones).sum()` can return a fifth of the sum, without a warning (https://github.com/jax-ml/jax/issues/39103,
39257, 40412). With an empty list of operations for that library, all results are correct, at the same speed.

XLA reads its flags once, when JAX starts its backends. So `import rgrad` adds the flag to the environment variable
`XLA_FLAGS`, which covers your own `jax.jit` as well. If JAX has already started, or the version of jaxlib is unknown, a
small program is compiled on first use. If its result is wrong, one warning says what to set.
"""

import importlib.metadata
import os
import re
import sys
import threading
import warnings
from typing import Any

FLAG = "xla_cpu_experimental_ynn_fusion_type"
LINE = f"XLA_FLAGS=--{FLAG}="
SWITCH = "RGRAD_XLA_FLAGS"
KNOWN = ((0, 10), (0, 13))
"""The flag is known to jaxlib from the first version up to, but not including, the second. An unknown flag is fatal."""
COMPILERS = ("jaxlib", "jax-cuda12-pjrt", "jax-cuda13-pjrt", "jax-rocm7-pjrt", "jax-rocm60-pjrt", "libtpu")
"""The packages that read `XLA_FLAGS`, each with its own XLA. All that are installed must know the flag."""


def set_flag() -> bool:
    """Adds the flag to `XLA_FLAGS`, unless it comes too late, is not known to every installed XLA, or is unwanted.

    Returns:
        Whether the flag will take effect. If it will not, the compiler must be tested.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = re.findall(rf"(?:^|\s)--{FLAG}=(\S*)", flags)
    if not chosen and _may_set(flags):
        os.environ["XLA_FLAGS"] = f"{flags} --{FLAG}=".strip()
        chosen = [""]
    return chosen[-1:] == [""] and not _started()


def _may_set(flags: str) -> bool:
    if os.environ.get(SWITCH, "1").strip().lower() in ("0", "false", "off", "no"):
        return False
    if flags.strip() and not flags.strip().startswith("-"):  # the name of a file that contains the flags
        return False
    return not _started() and all(KNOWN[0] <= version < KNOWN[1] for version in _versions())


def _versions() -> list[tuple[int, int]]:
    """The major and minor version of each installed XLA. (0, 0) for a version that cannot be read."""
    found = []
    for package in COMPILERS:
        try:
            text = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        match = re.match(r"(\d+)\.(\d+)", text) if package != "libtpu" else None  # libtpu has its own version numbers
        found.append((int(match[1]), int(match[2])) if match else (0, 0))
    return found or [(0, 0)]


def _started() -> bool:
    """Whether JAX has started its backends. After that, XLA reads no flags."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is None:
        return False
    try:
        return bool(bridge.backends_are_initialized())
    except AttributeError:  # a private function of JAX: if it is gone, assume that they have started
        return True


_in_force = set_flag()
_asked = threading.Lock()


def warn_if_wrong() -> None:
    """Warns once if `jax.jit` is wrong in this process. Does nothing if JAX has not started or the flag is in force."""
    global _in_force
    if _in_force or not _started() or not _asked.acquire(blocking=False):
        return
    try:
        _in_force = True  # test only once, whatever the result
        answer: list[bool] = []
        # In a separate thread, because this one may be tracing a user's function.
        probe = threading.Thread(target=lambda: answer.append(_is_right()), daemon=True)
        probe.start()
        probe.join()
        if answer == [False]:
            warnings.warn(
                "rgrad: JAX compiles sums and products wrongly on this CPU, also in your own jax.jit "
                "(https://github.com/jax-ml/jax/issues/39103), and it started before rgrad could prevent this. "
                f"Import rgrad before the first JAX computation, or set {LINE} in the environment. Programs that "
                "rgrad compiles (measure, fit, sweep, compare) are not affected.",
                RuntimeWarning,
                stacklevel=3,
            )
    finally:
        _asked.release()


def _is_right() -> bool:
    """Whether a program that affected versions compile wrongly is correct here. Always True on accelerators."""
    import jax  # not at the top, because `import rgrad` must not import jax
    import numpy as np

    if jax.default_backend() != "cpu":
        return True
    ones = np.ones((5, 3), np.float32)
    x = np.ones((1000, 4, 5), np.float32)
    program: Any = jax.jit(lambda x: ((x + 1) @ jax.numpy.asarray(ones)).sum((1, 2)))
    return bool(np.allclose(np.asarray(program(x)), 120.0, rtol=1e-5))
