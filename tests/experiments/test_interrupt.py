"""What SIGINT and SIGTERM do to a process: the line, the clean-up, files that belong together, and the second signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import interrupt

ROOT = Path(__file__).parent.parent.parent
START = """
import hashlib, os, signal, sys, time
from pathlib import Path
from experiments.common.interrupt import *
from experiments.common.interrupt import watch_interrupts
watch_interrupts()
send = lambda signum=signal.SIGTERM: os.kill(os.getpid(), signum)
"""


def ran(code, cwd, redirect=""):
    """Status, stdout and stderr of a process that has its handlers and then runs the code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": START + code}
    command = ["bash", "-c", f'exec {sys.executable} -c "$CODE" {redirect}']
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_long_call_is_interrupted(signum, status, tmp_path):
    """The call does not return to Python for minutes, like a large program of XLA."""
    code = f"import threading; threading.Timer(0.1, send, [{signum}]).start()\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    assert ran(code, tmp_path) == (status, "", "interrupted; nothing was written\n")


def test_a_signal_waits_for_what_belongs_together(tmp_path):
    code = """
with held():
    Path("a").touch()
    send()
    time.sleep(0.3)
    with held():
        Path("b").touch()
    keep("a and b are kept")
time.sleep(60)
"""
    assert ran(code, tmp_path) == (143, "", "interrupted; a and b are kept\n")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_the_second_signal_ends_the_process_at_once(tmp_path):
    code = "with held():\n    send()\n    time.sleep(0.1)\n    send(signal.SIGINT)\n    time.sleep(60)"
    assert ran(code, tmp_path) == (130, "", "")


def test_it_cleans_up_in_reverse_and_continues_after_an_error(tmp_path):
    code = """
Path("a").mkdir()
with cleaned(lambda: os.rmdir("a")), cleaned(lambda: 1 / 0), cleaned(lambda: os.unlink("a/b")):
    Path("a/b").touch()
    send()
    time.sleep(60)
"""
    assert ran(code, tmp_path) == (143, "", "interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_the_clean_up_causes_is_not_printed(tmp_path):
    """`main` prints inside `held`, which never returns while the process ends."""
    code = """
from experiments.common.runner import main
from experiments.variance import VarianceSettings
from experiments.common.errors import UsageError
def run(settings):
    def slow():
        global cleaning
        cleaning = True
        time.sleep(0.3)
    with cleaned(slow):
        send()
        while "cleaning" not in globals(): time.sleep(0.01)
        raise UsageError("the file is gone")
run.__module__ = "experiments.variance"
main(VarianceSettings, run, [])
"""
    assert ran(code, tmp_path) == (143, "", "interrupted; nothing was written\n")


def test_a_folder_with_a_line_break_is_one_line(tmp_path):
    assert ran("keep('a\\nb'); send(); time.sleep(60)", tmp_path) == (143, "", "interrupted; a\\nb\n")


@pytest.mark.parametrize("redirect", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_with_closed_and_full_streams(redirect, tmp_path):
    """A library may write to the number of a closed stream, which must not be that of the socket for signals."""
    code = """
import stat
sockets = [number for number in range(3) if stat.S_ISSOCK(os.fstat(number).st_mode)]
Path("sockets").write_text(str(sockets))
send()
time.sleep(60)
"""
    assert ran(code, tmp_path, redirect) == (143, "", "")
    assert (tmp_path / "sockets").read_text() == "[]"


def test_after_the_run(tmp_path):
    """A signal changes nothing while the report is flushed, and then has its default effect."""
    code = "ignore_interrupts(); send(); time.sleep(0.3); print('report', flush=True); default_interrupts(); send()"
    assert ran(code, tmp_path) == (-signal.SIGTERM, "report\n", "")


def test_cleaned_without_a_signal():
    called = []
    with interrupt.cleaned(lambda: called.append(1)):
        assert called == []
    assert called == [1]
    assert interrupt._cleanups == []
