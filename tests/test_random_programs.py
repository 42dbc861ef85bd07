"""Compiled programs against NumPy in 64 bits: random ones, and models as a user would write them.

Never against plain `jax.jit`, whose products are wrong by default on some CPUs and versions (`rgrad.check_compiler`).
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from random_programs import Jax, Numpy, Program, programs, tolerance, truth, wrong

import rgrad
from rgrad.compiling import options

EMPTY = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.parametrize("one_core", [False, True])
def test_options_change_no_number(one_core):
    """40 programs, every kind among them, ten in one compilation."""
    compile = lambda f: jax.jit(f, compiler_options=options(one_core))
    assert wrong(programs(40, seed=one_core), compile, together=10) == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["plain", "options", "one core"])
def test_300_programs_are_right(how):
    """Plain `jax.jit` in a process whose XLA_FLAGS have the cure, and with each set of our options."""
    chosen = {"plain": None, "options": options(), "one core": options(one_core=True)}[how]
    assert wrong(programs(300, seed=7), lambda f: jax.jit(f, compiler_options=chosen)) == []


def test_programs_are_what_they_are_taken_for():
    """Both ways of writing a program are one: op by op, where nothing is fused. And what is wrong is seen."""
    some = programs(20)
    with jax.disable_jit():
        assert wrong(some, lambda f: f) == []
    off = lambda o, x: x.sum() * (1 + 1e-3 * isinstance(o, Jax))
    (found,) = wrong([Program("a sum", off, (np.ones(100, np.float32),))], jax.jit)
    assert "a sum: off by" in found


def test_tolerances_are_those_of_rounding():
    """None is wider than a thousandth of the largest number, beside which the known faults are as large as the numbers."""
    for program in programs(60):
        right = truth(program)
        assert tolerance(program, right) <= 1e-3 * np.abs(right).max() + 1e-4, program.name
        np.testing.assert_array_equal(truth(program), right)
    assert Numpy().scan(0.5, np.ones((3, 1))).ravel().tolist() == [1, 1.5, 1.75]


def test_check_compiler_says_in_one_line_whether_the_compiler_is_right():
    """In a process of its own, where the flag makes all of it right whatever the version."""
    code = "import rgrad; found = rgrad.check_compiler(); print(found); assert found.ok"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {EMPTY}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "12 of 12 programs are right" in line


def test_check_compiler_sees_a_fault(monkeypatch):
    module = sys.modules["rgrad.check_compiler"] if rgrad.check_compiler else None
    off = lambda xp, x, w, t: x.sum() + (xp is not np)  # by 1, of about 100
    monkeypatch.setattr(module, "PROGRAMS", {"a sum": off, "a mean": lambda xp, x, w, t: x.mean()})
    found = rgrad.check_compiler()
    assert (found.ok, found.plain, found.with_options) == (False, ("a sum",), ("a sum",))
    assert "WRONG through jax.jit: 1, through rgrad: 1 of 2 programs (a sum)" in str(found)
    assert "\n" not in str(found)
