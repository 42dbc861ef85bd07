import os

# Before jax is imported: programs that a test compiles are kept for the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".pytest_cache/xla")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def x64():
    """Floats of 64 bits within the test."""
    with jax.enable_x64(True):
        yield
