"""The experiments. Each package answers one question: `python -m experiments.NAME`."""

import sys

from experiments.common.interrupt import watch_interrupts
from experiments.common.requirements import require_packages

if sys.argv[:1] == ["-m"]:  # Python has not yet found the module of `python -m experiments.NAME`
    watch_interrupts()  # before the slow imports, in which Ctrl-C would print a traceback
    require_packages()

import rgrad  # noqa: F401  sets an XLA flag before JAX starts, in this process and in its children
