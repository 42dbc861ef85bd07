"""Imports JAX and Matplotlib, and selects the platform of `--platform`. Invalid environment variables are bad input."""

import importlib
import os
from typing import Any

from experiments.common.errors import UsageError


def imported(module: str, variables: str) -> Any:
    """Imports a module that reads environment variables whose names start with `variables`.

    Raises:
        UsageError: one of them has an invalid value.
    """
    try:
        return importlib.import_module(module)
    except ValueError as error:
        raise UsageError(f"{_environment(variables)}: {module}: {error}; fix or unset it") from None


def use_platform(jax: Any, platform: str) -> None:
    """Selects the platform and starts jax.

    Raises:
        UsageError: jax has no device of this platform.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")  # so jax does not look for other devices
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # jax 0.10 asserts that there is a plug-in for cuda
        what = str(error) or "jax has no such platform here"
        raise UsageError(f"{_environment('JAX_PLATFORM')}: {what}; fix or unset it") from None
    if platform not in ("auto", found):
        raise UsageError(f"--platform {platform}: jax found only {found}; {_install(platform)}")


def _environment(start: str) -> str:
    """The variables whose names start like this, with their values."""
    given = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(start)]
    return " ".join(given) or f"environment variable {start}"


def _install(platform: str) -> str:
    return "pip install -e '.[cuda13]' for an NVIDIA GPU, or leave it out" if platform == "gpu" else "leave it out"
