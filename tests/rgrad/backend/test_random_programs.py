"""Compiled programs against NumPy in 64 bits: random ones, and models as a user would write them.

The reference is never plain `jax.jit`: on some CPUs and versions its products are wrong by default
(`rgrad.check_compiler`).
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import rgrad
from rgrad.backend.compiling import options
from tests.random_programs import Jax, Numpy, Program, programs, tolerance, truth, wrong

# The options of `measure`, `sweep` and `fit`, for programs of any size and for small ones.
OPTIONS = {"any size": {}, "small": {"one_core": True, "short_sums": True}}


@pytest.mark.parametrize(("kind", "count"), [("any size", 40), ("small", 20)])
def test_options_change_no_number(kind, count):
    """Ten programs of every kind, in one compilation."""
    compile = lambda f: jax.jit(f, compiler_options=options(**OPTIONS[kind]))
    assert wrong(programs(count, seed=count), compile, together=10) == []


@pytest.mark.long
@pytest.mark.parametrize("kind", [None, *OPTIONS])
def test_300_programs_are_right(kind):
    """With plain `jax.jit` and the flag that `import rgrad` sets, and with each set of our options."""
    chosen = options(**OPTIONS[kind]) if kind else None
    assert wrong(programs(300, seed=7), lambda f: jax.jit(f, compiler_options=chosen)) == []


def test_a_wrong_program_is_detected():
    off = lambda o, x: x.sum() * (1 + 1e-3 * isinstance(o, Jax))
    (found,) = wrong([Program("a sum", off, (np.ones(100, np.float32),))], jax.jit)
    assert "a sum: off by" in found


def test_tolerances_are_those_of_rounding():
    """No tolerance exceeds a thousandth of the largest number. The known faults are as large as the numbers."""
    for program in programs(60):
        right = truth(program)
        assert tolerance(program, right) <= 1e-3 * np.abs(right).max() + 1e-4, program.name
        np.testing.assert_array_equal(truth(program), right)
    assert Numpy().scan(0.5, np.ones((3, 1))).ravel().tolist() == [1, 1.5, 1.75]


def test_check_compiler_says_in_one_line_whether_the_compiler_is_right():
    """The compiler is right in this process, which has the flag."""
    found = rgrad.check_compiler()
    assert found.ok, found
    assert "12 of 12 programs are right" in str(found)


@pytest.mark.long
def test_check_compiler_finds_the_known_fault():
    """In a separate process without the flag, it reports a fault if and only if a known product is wrong."""
    code = """
import jax, jax.numpy as jnp, numpy as np, rgrad
x = np.random.default_rng(1).standard_normal((33_000, 5)).astype(np.float32)
of = lambda xp, x: (((x + 1) @ xp.ones((5, 3), x.dtype)) ** 2).mean()
known = abs(jax.jit(lambda x: of(jnp, x))(x) / of(np, x.astype(float)) - 1) > 0.01
found = rgrad.check_compiler()
print(known, found)
assert bool(found.plain) == bool(known) and found.with_options == ()
"""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"RGRAD_XLA_FLAGS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_compiler_detects_a_fault(monkeypatch):
    module = sys.modules["rgrad.backend.compiler_check"] if rgrad.check_compiler else None
    off = lambda xp, x, w, t: x.sum() + (xp is not np)  # off by 1, of about 100
    monkeypatch.setattr(module, "PROGRAMS", {"a sum": off, "a mean": lambda xp, x, w, t: x.mean()})
    found = rgrad.check_compiler()
    assert (found.ok, found.plain, found.with_options) == (False, ("a sum",), ("a sum",))
    assert "WRONG through jax.jit: 1, through rgrad: 1 of 2 programs (a sum)" in str(found)
    assert "\n" not in str(found)
