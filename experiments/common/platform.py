"""Selects the platform of `--platform`."""

from typing import Any

from experiments.common.errors import UsageError


def use_platform(jax: Any, platform: str) -> None:
    """Selects the platform. If it is not `auto`, this starts jax.

    Raises:
        UsageError: jax has no device of this platform.
    """
    if platform == "auto":
        return
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # so that jax does not look for other devices
    found = jax.default_backend()
    if platform != found:
        raise UsageError(f"--platform {platform}: jax found only {found}; {_install(platform)}")


def _install(platform: str) -> str:
    return "install '.[cuda13]' for an NVIDIA GPU, or leave it out" if platform == "gpu" else "leave it out"
