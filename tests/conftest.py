import os
from pathlib import Path

# Before jax is imported: programs that a test compiles are kept for the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest


@pytest.fixture
def x64():
    """Floats of 64 bits within the test."""
    with jax.enable_x64(True):
        yield
