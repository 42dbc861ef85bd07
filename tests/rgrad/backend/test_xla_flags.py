"""When the XLA flag is set on CPU. Without it, wrong numbers in the user's own programs come with a warning."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad
from rgrad import noise
from rgrad.backend import compiling, xla_flags
from rgrad.backend.xla_flags import FLAG, set_flag, warn_if_wrong


@pytest.fixture
def fresh(monkeypatch):
    """Return a function that imitates a process before JAX starts and returns XLA_FLAGS and `set_flag()`."""

    def call(flags=None, switch=None, started=False, versions=((0, 10), (0, 12))):
        for name, value in (("XLA_FLAGS", flags), (xla_flags.SWITCH, switch)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(xla_flags, "_started", lambda: started)
        monkeypatch.setattr(xla_flags, "_versions", lambda: list(versions))
        in_force = set_flag()
        return os.environ.get("XLA_FLAGS"), in_force

    return call


def test_the_flag_is_added_to_what_is_there(fresh):
    assert fresh() == (f"--{FLAG}=", True)
    assert fresh("--xla_a=1") == (f"--xla_a=1 --{FLAG}=", True)
    assert fresh(f"--xla_a=1 --{FLAG}=") == (f"--xla_a=1 --{FLAG}=", True)


@pytest.mark.parametrize(
    ("name", "given"),
    {
        "the user has chosen": {"flags": f"--{FLAG}=LIBRARY_FUSION_TYPE_DOT"},
        "a file of flags": {"flags": "/etc/flags"},
        "switched off": {"switch": "0"},
        "too late": {"started": True},
        "an older jaxlib": {"versions": [(0, 9)]},
        "a newer jaxlib": {"versions": [(0, 13)]},
        "a plugin of unknown version": {"versions": [(0, 12), (0, 0)]},
    }.items(),
)
def test_the_flag_is_left_alone_and_the_compiler_is_probed(name, given, fresh):
    assert fresh(**given) == (given.get("flags"), False)


def test_versions_of_what_is_installed():
    assert xla_flags._versions()
    assert all(version >= (0, 10) for version in xla_flags._versions())


# Twelve programs that jaxlib 0.10.2 to 0.12 compile wrongly by default on CPUs with AVX-512, and a gradient of
# `expect`.
PROGRAMS = """
import sys, warnings
import numpy as np
import jax, jax.numpy as jnp
if sys.argv[1] == "after an array":
    jnp.ones(3).sum().block_until_ready()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import rgrad
    import numpyro.distributions as dist
    W, V = jnp.ones((5, 3)), np.ones((5, 3))
    programs = {
        "sums by row": lambda x, w: ((x + 1) @ w).sum((1, 2)),
        "the whole sum": lambda x, w: ((x + 1) @ w).sum(),
        "squares by row": lambda x, w: (((x[:, 0] + 1) @ w) ** 2).mean(-1),
        "mean of squares": lambda x, w: ((x[:, 0] @ w) ** 2).mean(),
    }
    wrong = []
    for rows in (1, 1000, 33_000):
        x = np.random.default_rng(0).standard_normal((rows, 4, 5)).astype(np.float32)
        for name, f in programs.items():
            want = f(x.astype(float), V)
            if not np.allclose(jax.jit(lambda x: f(x, W))(x), want, rtol=1e-4, atol=1e-4 * np.abs(want).max()):
                wrong.append((rows, name))
    def loss(theta, key):  # E[(sum x)^2] = 5 + (5 theta)^2: 105 at 2, its derivative 100; standard errors 0.2
        q = dist.Normal(theta * jnp.ones(5), 1.0).to_event(1)
        return rgrad.expect(lambda x: ((x @ W) ** 2).mean(), q, key, n=40_000)
    value, slope = jax.jit(jax.value_and_grad(loss))(2.0, jax.random.key(0))
    if abs(value - 105) > 2 or abs(slope - 100) > 2:
        wrong.append("expect")
print(len(wrong), sum(w.category is RuntimeWarning and "XLA_FLAGS" in str(w.message) for w in said))
"""


@pytest.mark.parametrize("order", ["jax first", "after an array"])
def test_in_a_fresh_process_plain_jit_is_right_or_there_is_one_warning(order):
    env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    env |= {
        "PYTHONPATH": str(Path(__file__).parent.parent.parent.parent),
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAMS, order], env=env, capture_output=True, text=True, check=True)
    wrong, warned = map(int, done.stdout.split())
    assert (wrong, warned) == (0, 0) if order == "jax first" else warned == (wrong > 0)


def test_one_warning_and_not_two(monkeypatch):
    monkeypatch.setattr(xla_flags, "_in_force", False)
    monkeypatch.setattr(xla_flags, "_is_right", lambda: False)
    with pytest.warns(RuntimeWarning, match=f"XLA_FLAGS=--{FLAG}= in the environment"):
        warn_if_wrong()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_wrong()


def test_the_probe_finds_this_process_right_also_within_a_trace(monkeypatch):
    monkeypatch.setattr(xla_flags, "_in_force", False)

    def f(x):
        warn_if_wrong()
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(jax.vmap(f))(np.ones(3))
    assert xla_flags._in_force


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it tests options of the CPU compiler")
def test_all_that_is_compiled_has_the_empty_list():
    for one_core in (False, True):
        for short_sums in (False, True):
            assert compiling.options(one_core, short_sums)[FLAG] == ""
    assert compiling.right() == {FLAG: ""}


def mean_of_squares(key, n):
    return rgrad.expect(lambda x: x**2, dist.Normal(0.0, 1.0), key, n, rgrad.score_function)


def in_64_bits(key, n):
    pieces = np.array_split(np.asarray(noise.normal(key, (n,))), 64)
    return sum(np.square(x, dtype=np.float64).sum() for x in pieces) / n


@pytest.mark.parametrize("n", [compiling.SHORT_SUMS, 10**6, pytest.param(10**9, marks=pytest.mark.long)])
def test_sums_within_a_call_are_exact_to_1e_6(n):
    """For both sizes of n, with and without sums in pieces: in `measure`, and in a user's own program."""
    key = jax.random.key(n)
    first = noise.fold_in(noise.fold_in(key, 0), 0)  # the key of the first replicate
    truth = in_64_bits(first, n)
    call = lambda key: mean_of_squares(key, n)
    assert rgrad.measure(call, key, 1).mean == pytest.approx(truth, rel=1e-6)
    assert float(jax.jit(call)(first)) == pytest.approx(truth, rel=1e-6)
