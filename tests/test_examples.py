"""Every public name has an example in its docstring, and the example prints what it says."""

import doctest
import inspect
import re

import pytest

import rgrad

FLAGS = doctest.NORMALIZE_WHITESPACE
START = "\n".join(re.findall(r">>> (.*)", rgrad.__doc__))  # what the examples assume


def documented(name):
    """What has the docstring of a public name. `ESTIMATORS` is a mapping, and its rows have it."""
    found = getattr(rgrad, name)
    return rgrad.EstimatorRow if name == "ESTIMATORS" else found


def example_of(name):
    """The section `Example:` of a docstring."""
    sections = re.findall(r"^( *)Example:\n((?:\1    .*\n?|\n)+)", documented(name).__doc__ or "", re.M)
    assert len(sections) == 1, f"rgrad.{name} has {len(sections)} sections `Example:`"
    return sections[0][1]


def wrong(name, text):
    """What doctest says about an example; empty if it is right."""
    namespace, said = {}, []
    exec(START, namespace)
    test = doctest.DocTestParser().get_doctest(text, namespace, f"rgrad.{name}", None, 0)
    assert test.examples[-1].want, f"the example of rgrad.{name} must end in a result"
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("name", [name for name in rgrad.__all__ if name != "ESTIMATORS"])
def test_the_example_runs(name):
    text = example_of(name)
    assert f"rgrad.{name}" in text or inspect.isclass(getattr(rgrad, name))  # what a function returns, or a protocol
    assert wrong(name, text) == ""


def test_a_wrong_example_is_found():
    assert "Expected:" in wrong("expect", ">>> print(rgrad.leave_one_out(jnp.array([1.0, 2.0, 6.0])))\n[4. 3.5 2.]\n")
    assert "NameError" in wrong("expect", ">>> print(rgrad.leave_one_out(xs))\n[4. 3.5 2.]\n")
